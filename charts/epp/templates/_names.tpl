{{/* What things are called, and how they are found. */}}

{{/* 46 characters: the name of a pod is this, a dash, up to 10 for its template, a dash and 5 of its own, and Kubernetes cuts what is
before those 5 to 58. Where it does, pickers cannot tell the name of their Deployment, and so not that of their Lease. */}}
{{- define "epp.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "epp.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "epp.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "epp.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: endpoint-picker
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The metadata of every object; one that has annotations, or another name, writes its own. */}}
{{- define "epp.metadata" -}}
name: {{ include "epp.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "epp.labels" . | nindent 2 }}
{{- end -}}

{{- define "epp.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "epp.fullname" .) -}}
{{- end -}}

{{- define "epp.configMapName" -}}
{{- .Values.existingConfigMap | default (include "epp.fullname" .) -}}
{{- end -}}

{{/* Of the InferencePool; empty where there is none. */}}
{{- define "epp.poolName" -}}
{{- if .Values.pool.create -}}
{{- .Values.pool.name | default .Release.Name -}}
{{- else -}}
{{- .Values.pool.name -}}
{{- end -}}
{{- end -}}

{{/* Of the Secret with the certificate; empty where each picker makes its own. */}}
{{- define "epp.tlsSecretName" -}}
{{- if and .Values.tls.enabled (ne .Values.tls.mode "self-signed") -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "epp.fullname" .)) -}}
{{- end -}}
{{- end -}}

{{/* The name that a gateway calls the picker by, and its certificate has to have. */}}
{{- define "epp.host" -}}
{{- printf "%s.%s.svc" (include "epp.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* An image's full name. Takes (dict "image" ... "tag" DEFAULT). */}}
{{- define "epp.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}

{{/* Of the Lease that several pickers of one pool elect their leader by, as `epp serve` calls it. */}}
{{- define "epp.leaseName" -}}
{{- printf "epp-%s-%s.llm-d.ai" .Release.Namespace (include "epp.poolName" . | default (include "epp.fullname" .)) -}}
{{- end -}}
