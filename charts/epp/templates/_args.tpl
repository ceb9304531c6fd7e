{{/* The flags of `epp serve`. */}}
{{- define "epp.args" -}}
- serve
{{- if include "epp.poolless" . }}
- --endpoint-selector={{ range $i, $key := keys .Values.pool.selector | sortAlpha }}{{ if $i }},{{ end }}{{ $key }}={{ index $.Values.pool.selector $key }}{{ end }}
- --endpoint-target-ports={{ range $i, $port := .Values.pool.targetPorts }}{{ if $i }},{{ end }}{{ int $port.number }}{{ end }}
{{- else }}
- --pool-name={{ include "epp.poolName" . }}
{{- end }}
- --pool-namespace=$(NAMESPACE)
- --config-file=/etc/epp/config/config.yaml
{{- if .Values.watchConfigMap }}
- --config-map={{ include "epp.configMapName" . }}/config.yaml
{{- end }}
- --grpc-port=9002
- --grpc-health-port=9003
- --metrics-port=9090
- --secure-serving={{ ternary "true" "false" (eq (include "epp.tls" .) "true") }}
{{- if include "epp.verifiable" . }}
- --cert-path=/etc/epp/tls
- --enable-cert-reload
{{- end }}
- --ha-enable-leader-election={{ ternary "true" "false" (eq (include "epp.elects" .) "true") }}
- --metrics-endpoint-auth={{ .Values.metrics.authentication.enabled }}
{{- with .Values.transport }}
- --transport={{ . }}
{{- end }}
- --drain-timeout={{ int .Values.drainTimeoutS }}s
- --v={{ int .Values.log.verbosity }}
- --log-format={{ .Values.log.format }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
