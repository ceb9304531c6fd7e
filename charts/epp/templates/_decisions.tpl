{{/* What follows from several values together. Each is "true" or nothing. */}}

{{/* There may be more than one picker. */}}
{{- define "epp.several" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}true{{- end -}}
{{- end -}}

{{/* What is asked first knows the same in every picker. */}}
{{- define "epp.sharesKnowledge" -}}
{{- if not (or .Values.configText .Values.existingConfigMap) -}}
{{- with .Values.strategy -}}
{{- if has (first .chain) (list "accurate" "consistent-hash") -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* One of several is elected. */}}
{{- define "epp.elects" -}}
{{- if include "epp.several" . -}}
{{- if eq .Values.highAvailability "leader" -}}true
{{- else if eq .Values.highAvailability "auto" -}}
{{- if not (include "epp.sharesKnowledge" .) -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The picker's port speaks TLS. Beside an Envoy in the same pod it does not: the connection never leaves the pod. */}}
{{- define "epp.tls" -}}
{{- if and .Values.tls.enabled (not .Values.standalone.enabled) -}}true{{- end -}}
{{- end -}}

{{/* There is an authority that a gateway can check the certificate against. */}}
{{- define "epp.verifiable" -}}
{{- if and (include "epp.tls" .) (ne .Values.tls.mode "self-signed") -}}true{{- end -}}
{{- end -}}

{{/* Pods are found by labels, with no InferencePool. */}}
{{- define "epp.poolless" -}}
{{- if not (include "epp.poolName" .) -}}true{{- end -}}
{{- end -}}

{{/* Seconds that a leader which is told to end goes on leading, so that whoever takes its place has started. */}}
{{- define "epp.handoverS" -}}10{{- end -}}

{{/* Seconds a pod may take to end: hand over, be passed over, let requests end, and some to spare. */}}
{{- define "epp.graceS" -}}
{{- $handover := ternary (int (include "epp.handoverS" .)) 0 (eq (include "epp.elects" .) "true") -}}
{{- add $handover (mul 2 (int .Values.drainTimeoutS)) 10 -}}
{{- end -}}

{{/* The label `job` that the monitors give. */}}
{{- define "epp.job" -}}
{{- if .Values.metrics.podMonitor.enabled -}}{{ .Release.Namespace }}/{{ end -}}
{{- include "epp.fullname" . -}}
{{- end -}}

{{/* Which series are this release's. */}}
{{- define "epp.series" -}}
{{- if .Values.metrics.prometheusRule.selector -}}
{{- .Values.metrics.prometheusRule.selector -}}
{{- else if .Values.metrics.podMonitor.enabled -}}
{{- printf "job=\"%s\"" (include "epp.job" .) -}}
{{- else -}}
{{- printf "job=\"%s\",namespace=\"%s\"" (include "epp.job" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}
