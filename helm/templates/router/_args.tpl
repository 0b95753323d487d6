{{/* The router's command line, one flag an item; no key ever stands here. */}}
{{- define "router.args" -}}
{{- $router := .Values.router -}}
{{- $discovery := $router.discovery -}}
- --host=0.0.0.0
- --port={{ $router.port }}
- --service-discovery={{ $discovery.type }}
{{- if eq $discovery.type "k8s" }}
{{- with $discovery.k8s.namespace }}
- --k8s-namespace={{ . }}
{{- end }}
- {{ printf "--k8s-label-selector=%v" (include "router.k8sLabelSelector" .) | quote }}
{{- with $discovery.k8s.port }}
- {{ printf "--k8s-port=%v" . | quote }}
{{- end }}
- --k8s-service-discovery-type={{ $discovery.k8s.type }}
- --k8s-watcher-timeout-seconds={{ $discovery.k8s.watcherTimeoutSeconds }}
{{- else if eq $discovery.type "static" }}
{{- $urls := list }}{{ $models := list }}{{ $types := list }}{{ $labels := list }}
{{- range $discovery.static.engines }}
{{- $urls = append $urls .url }}
{{- if .model }}{{ $models = append $models .model }}{{ end }}
{{- if .type }}{{ $types = append $types .type }}{{ end }}
{{- if .label }}{{ $labels = append $labels .label }}{{ end }}
{{- end }}
- {{ printf "--static-backends=%v" (join "," $urls) | quote }}
{{- with $models }}
- {{ printf "--static-models=%v" (join "," .) | quote }}
{{- end }}
{{- with $types }}
- {{ printf "--static-model-types=%v" (join "," .) | quote }}
{{- end }}
{{- with $labels }}
- {{ printf "--static-model-labels=%v" (join "," .) | quote }}
{{- end }}
{{- else if eq $discovery.type "file" }}
- --discovery-file=/etc/vllm-router/engines/engines.yaml
{{- else }}
- {{ printf "--dns-name=%v" (include "router.dnsName" .) | quote }}
- --dns-refresh-s={{ $discovery.dns.refreshSeconds }}
{{- end }}
{{- if $router.engineProbes.transcribe }}
- --static-backend-health-checks
{{- end }}
- --static-backend-health-check-interval={{ $router.engineProbes.intervalSeconds }}
- --static-backend-health-check-timeout-seconds={{ $router.engineProbes.timeoutSeconds }}
- --routing-logic={{ $router.routing.logic }}
{{- with $router.routing.sessionKey }}
- {{ printf "--session-key=%v" . | quote }}
{{- end }}
{{- with $router.routing.aliases }}
{{- $pairs := list }}
{{- range $alias, $model := . }}{{ $pairs = append $pairs (printf "%s:%s" $alias $model) }}{{ end }}
- {{ printf "--static-aliases=%v" (join "," $pairs) | quote }}
{{- end }}
- --max-upload-mb={{ $router.limits.maxUploadMb | int64 }}
{{- with $router.limits.maxQueueAudioSeconds }}
- --max-queue-audio-s={{ . | int64 }}
{{- end }}
{{- with $router.limits.maxQueueWaitSeconds }}
- --max-queue-wait-s={{ . }}
{{- end }}
{{- with $router.limits.engineMaxWindows }}
- --engine-max-windows={{ . }}
{{- end }}
- --spool-dir=/spool
- --spool-max-mb={{ $router.spool.maxMb | int64 }}
{{- with $router.spool.memoryMb }}
- --spool-memory-mb={{ . }}
{{- end }}
- --engine-stats-interval={{ $router.stats.engineIntervalSeconds }}
- --request-stats-window={{ $router.stats.requestWindowSeconds }}
{{- if $router.stats.log }}
- --log-stats
{{- end }}
- --log-level={{ $router.log.level }}
- --log-format={{ $router.log.format }}
- --drain-timeout-s={{ include "router.drainTimeoutSeconds" . }}
{{- with $router.rootPath }}
- {{ printf "--root-path=%v" . | quote }}
{{- end }}
{{- if has "api-keys" (include "router.secretKeys" . | fromJsonArray) }}
- --api-key-file=/etc/vllm-router/keys/api-keys
{{- end }}
{{- if $router.config }}
- --config=/etc/vllm-router/config/config.yaml
{{- end }}
{{- range $router.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}
