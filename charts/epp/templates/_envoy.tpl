{{/* The Envoy of standalone mode. */}}

{{- define "epp.envoyBootstrap" -}}
{{- $text := .Files.Get "files/envoy.json" | replace "0.0.0.0" .Values.standalone.listenAddress -}}
{{- if eq .Values.pool.appProtocol "kubernetes.io/h2c" -}}
{{- $text = $text | replace "\"httpProtocolOptions\": {}" "\"http2ProtocolOptions\": {}" -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* A sidecar in Kubernetes' sense: it starts before the picker and ends after it, so that requests under way end through it. */}}
{{- define "epp.envoyContainer" -}}
- name: envoy
  restartPolicy: Always
  image: {{ include "epp.image" (dict "image" .Values.standalone.image "tag" "") }}
  imagePullPolicy: {{ .Values.standalone.image.pullPolicy }}
  args:
  - --config-path
  - /etc/envoy/envoy.json
  - --concurrency
  - {{ .Values.standalone.concurrency | quote }}
  - --disable-hot-restart
  - --log-level
  - warning
  ports:
  - {name: http, containerPort: 8080}
  # Open once the bootstrap is in force. Whether requests can be answered is for the picker's probe to say.
  readinessProbe:
    tcpSocket: {port: http}
    periodSeconds: 2
  resources:
    {{- toYaml .Values.standalone.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
  - {name: envoy, mountPath: /etc/envoy, readOnly: true}
{{- end -}}

{{/* Run in the picker's container when the pod ends: from then on Envoy has clients close their connections, so that none sends its
next request to a pod that is going. A leader first hands over: clients that were turned away sooner would find nobody. */}}
{{- define "epp.envoyDrain" -}}
command:
- python
- -c
- |
  {{- if include "epp.elects" . }}
  from time import sleep
  {{- end }}
  from urllib.request import urlopen
  {{- if include "epp.elects" . }}
  sleep({{ include "epp.handoverS" . }})
  {{- end }}
  urlopen("http://127.0.0.1:9901/healthcheck/fail", data=b"", timeout=5)
{{- end -}}
