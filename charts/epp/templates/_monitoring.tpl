{{/* The dashboard, as this release's own: Grafana takes no second one of the same uid, of at most 40 characters, or of the same title in
one folder. It opens on this release. */}}
{{- define "epp.dashboard" -}}
{{- $name := printf "%s/%s" .Release.Namespace (include "epp.fullname" .) -}}
{{- $board := .Files.Get "files/dashboard.json" | fromJson -}}
{{- $_ := set $board "uid" (sha1sum $name) -}}
{{- $_ := set $board "title" (printf "%s %s" $board.title $name) -}}
{{- $here := dict "namespace" .Release.Namespace "job" (include "epp.job" .) -}}
{{- range $variable := $board.templating.list -}}
{{- with get $here $variable.name -}}
{{- $_ := set $variable "current" (dict "text" . "value" .) -}}
{{- end -}}
{{- end -}}
{{- toPrettyJson $board -}}
{{- end -}}

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
