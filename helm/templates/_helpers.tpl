{{- define "router.name" -}}
{{- regexReplaceAll "-+$" (.Values.nameOverride | default .Chart.Name | trunc 40) "" -}}
{{- end -}}

{{/* At most 40 characters, so that a group's name and the suffixes of pods fit behind it. */}}
{{- define "router.fullname" -}}
{{- $name := include "router.name" . -}}
{{- $usual := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- regexReplaceAll "-+$" (.Values.fullnameOverride | default $usual | trunc 40) "" -}}
{{- end -}}

{{/* Labels of any object. Call with (dict "root" $ "component" "router"). Quoted, here as everywhere:
YAML would read a release or a namespace called 1 or true as no text. */}}
{{- define "router.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: {{ include "router.name" .root | quote }}
{{ include "router.selectorLabels" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Never change these within a release: a Deployment's selector is immutable. */}}
{{- define "router.selectorLabels" -}}
app.kubernetes.io/name: {{ include "router.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .group }}
vllm-whisper-router/engine-group: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* repository@digest or repository:tag. Call with (dict "image" … "tag" "the default tag"). */}}
{{- define "router.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end -}}
{{- end -}}

{{/* A Deployment's strategy. Recreate has no rollingUpdate, which the defaults bring. */}}
{{- define "router.strategy" -}}
{{- if eq .type "Recreate" -}}
type: Recreate
{{- else -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "router.serviceAccountName" -}}
{{- if .Values.router.serviceAccount.create -}}
{{ .Values.router.serviceAccount.name | default (include "router.fullname" .) }}
{{- else -}}
{{ .Values.router.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "router.enginesService" -}}
{{ include "router.fullname" . }}-engines
{{- end -}}

{{- define "router.k8sNamespace" -}}
{{ .Values.router.discovery.k8s.namespace | default .Release.Namespace }}
{{- end -}}

{{- define "router.k8sLabelSelector" -}}
{{- $k8s := .Values.router.discovery.k8s -}}
{{- if $k8s.labelSelector -}}
{{ $k8s.labelSelector }}
{{- else if eq $k8s.type "endpoint-slice" -}}
kubernetes.io/service-name={{ include "router.enginesService" . }}
{{- else -}}
app.kubernetes.io/instance={{ .Release.Name }},app.kubernetes.io/component=engine
{{- end -}}
{{- end -}}

{{- define "router.dnsName" -}}
{{ .Values.router.discovery.dns.name | default (printf "_http._tcp.%s.%s.svc.%s" (include "router.enginesService" .) .Release.Namespace .Values.clusterDomain) }}
{{- end -}}

{{- define "router.secretName" -}}
{{ .Values.router.auth.existingSecret | default (printf "%s-keys" (include "router.fullname" .)) }}
{{- end -}}

{{/* The entries the Secret with the keys has, as a JSON list. */}}
{{- define "router.secretKeys" -}}
{{- $auth := .Values.router.auth -}}
{{- $keys := list -}}
{{- if $auth.existingSecret -}}
{{- $keys = $auth.existingSecretKeys -}}
{{- else -}}
{{- if $auth.apiKeys }}{{ $keys = append $keys "api-keys" }}{{ end -}}
{{- if $auth.engineApiKey }}{{ $keys = append $keys "engine-api-key" }}{{ end -}}
{{- if $auth.adminKey }}{{ $keys = append $keys "admin-key" }}{{ end -}}
{{- end -}}
{{- toJson $keys -}}
{{- end -}}

{{- define "router.drainTimeoutSeconds" -}}
{{- if kindIs "invalid" .Values.router.drainTimeoutSeconds -}}
{{ .Values.longestRequestSeconds | int }}
{{- else -}}
{{ .Values.router.drainTimeoutSeconds | int }}
{{- end -}}
{{- end -}}

{{/* What the router needs to end by itself: preStop, drain, and 15 s to close up. */}}
{{- define "router.leastGracePeriodSeconds" -}}
{{ add (include "router.drainTimeoutSeconds" .) (.Values.router.preStopSleepSeconds | int) 15 }}
{{- end -}}

{{/* Call with (dict "root" $ "component" … "group" … "mode" "soft|hard|none" "own" list). */}}
{{- define "router.topologySpread" -}}
{{- if .own -}}
topologySpreadConstraints:
  {{- toYaml .own | nindent 2 }}
{{- else if ne .mode "none" -}}
topologySpreadConstraints:
  {{- $when := ternary "DoNotSchedule" "ScheduleAnyway" (eq .mode "hard") }}
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels:
        {{- include "router.selectorLabels" $ | nindent 8 }}
    # Count the pods of one rollout only, or a hard constraint could block the next.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end -}}
{{- end -}}

{{/* One group's values, the defaults beneath. Call with (dict "root" $ "group" name); YAML. */}}
{{- define "engines.group" -}}
{{- $own := index .root.Values.engines.groups .group | default dict -}}
{{- mustMergeOverwrite (deepCopy .root.Values.engines.defaults) (deepCopy $own) | toYaml -}}
{{- end -}}
