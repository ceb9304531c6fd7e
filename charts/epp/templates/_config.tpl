{{/* The configuration: `configText`, or what `strategy` and `config` come to. */}}
{{- define "epp.config" -}}
{{- if .Values.configText -}}
{{- .Values.configText -}}
{{- else -}}
{{- $config := dict "apiVersion" "llm-d.ai/v1alpha1" "kind" "EndpointPickerConfig" -}}
{{- $strategy := dict -}}
{{- range $key, $value := .Values.strategy -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $strategy $key $value -}}
{{- end -}}
{{- end -}}
{{- if $strategy -}}
{{- $_ := set $config "strategy" $strategy -}}
{{- end -}}
{{- toYaml (merge $config .Values.config) -}}
{{- end -}}
{{- end -}}
