{{/* What both monitors ask of Prometheus. Takes the monitor's values and the root: (dict "monitor" ... "root" $). */}}
{{- define "epp.scrape" -}}
port: http-metrics
path: /metrics
interval: {{ .monitor.interval }}
{{- with .root.Values.metrics.authentication.tokenSecret }}
{{- if .name }}
authorization:
  type: Bearer
  credentials: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- end -}}
