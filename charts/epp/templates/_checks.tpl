{{/* Values that do not go together, each with what to do. What a single value may be is in values.schema.json. */}}
{{- define "epp.checks" -}}
{{- $v := .Values -}}
{{- if and (not $v.pool.selector) (or $v.pool.create (not $v.pool.name)) -}}
{{- fail "pool.selector is empty: say which pods serve the model, such as --set pool.selector.app=vllm; or name an InferencePool that exists with pool.create=false and pool.name" -}}
{{- end -}}
{{- if and $v.tls.enabled (eq $v.tls.mode "secret") (not $v.tls.secretName) -}}
{{- fail "tls.mode is secret: name the Secret in tls.secretName" -}}
{{- end -}}
{{- if and $v.tls.enabled (eq $v.tls.mode "cert-manager") (not $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.mode is cert-manager: name who issues in tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and (not $v.tls.enabled) (has $v.gateway.provider (list "agentgateway" "envoy-ai-gateway" "kgateway")) -}}
{{- fail (printf "tls.enabled is false, but %s always speaks TLS to the picker" $v.gateway.provider) -}}
{{- end -}}
{{- if and $v.standalone.enabled (ne $v.gateway.provider "none") -}}
{{- fail "standalone.enabled brings an Envoy of its own: leave gateway.provider at none" -}}
{{- end -}}
{{- if and $v.standalone.enabled $v.service.headless -}}
{{- fail "standalone.enabled: clients talk to the Service, and a headless one has no address and no port of its own: set service.headless=false" -}}
{{- end -}}
{{- if and $v.service.headless (ne $v.service.type "ClusterIP") -}}
{{- fail (printf "service.headless: a Service of type %s cannot be headless: leave service.type at ClusterIP" $v.service.type) -}}
{{- end -}}
{{- if and $v.standalone.enabled (eq (int $v.standalone.port) 9090) -}}
{{- fail "standalone.port: 9090 is the port of the metrics on the same Service: choose another" -}}
{{- end -}}
{{- if and $v.configText (or $v.config $v.existingConfigMap) -}}
{{- fail "configText is the whole configuration: leave config and existingConfigMap empty" -}}
{{- end -}}
{{- if and $v.existingConfigMap $v.config -}}
{{- fail "existingConfigMap holds the whole configuration: leave config empty" -}}
{{- end -}}
{{- if hasKey $v.config "strategy" -}}
{{- fail "config.strategy: the strategy has a value of its own, strategy" -}}
{{- end -}}
{{- if and $v.config.schedulingProfiles $v.strategy -}}
{{- fail "config.schedulingProfiles says how to route, and so does strategy: set strategy to null" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (include "epp.elects" .) -}}
{{- fail "autoscaling adds pickers, but with a leader the others stand by and take no load: set highAvailability=active-active" -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $v.gateway.istio.credentialName $v.gateway.istio.caCertificates -}}
{{- fail "gateway.istio: give credentialName or caCertificates, not both" -}}
{{- end -}}
{{- if and (or $v.gateway.istio.credentialName $v.gateway.istio.caCertificates) (not (include "epp.verifiable" .)) -}}
{{- fail "gateway.istio has something to check the certificate against, but a self-signed one cannot be checked: set tls.mode to secret or cert-manager" -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor together would count everything twice: enable one" -}}
{{- end -}}
{{- if and (not $v.serviceAccount.create) (not $v.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: name the one that exists in serviceAccount.name" -}}
{{- end -}}
{{- end -}}
