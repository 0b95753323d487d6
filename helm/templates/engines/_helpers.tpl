{{/* What the router's discovery reads from a pod beside its labels. */}}
{{- define "engines.annotations" -}}
vllm-whisper-router/label: {{ .name | quote }}
vllm-whisper-router/port: {{ .group.port | quote }}
vllm-whisper-router/weight: {{ .group.weight | quote }}
{{- with .group.gpu.kind }}
vllm-whisper-router/gpu: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The group's resources with its GPUs, which must stand in requests and limits alike. */}}
{{- define "engines.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpu.count -}}
{{- $gpu := dict .gpu.resource (.gpu.count | int) -}}
{{- $resources = mustMergeOverwrite $resources (dict "requests" (deepCopy $gpu) "limits" (deepCopy $gpu)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
