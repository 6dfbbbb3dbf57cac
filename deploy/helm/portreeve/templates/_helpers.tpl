{{- define "portreeve.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "portreeve.metricsBindAddress" -}}
{{- if .Values.metrics.bindAddress -}}
{{ .Values.metrics.bindAddress }}
{{- else if .Values.metrics.serviceMonitor.enabled -}}
0.0.0.0:10249
{{- end -}}
{{- end }}

{{- define "portreeve.dnsFlag" -}}
{{- if .Values.dns.enabled -}}
--dns
{{- else -}}
--no-dns
{{- end -}}
{{- end }}

{{- define "portreeve.logArgs" -}}
{{- if eq .Values.logLevel "debug" }}
- --verbose
{{- else if eq .Values.logLevel "trace" }}
- --verbose
- --verbose
{{- end }}
{{- if ne .Values.logFormat "text" }}
- --log-format={{ .Values.logFormat }}
{{- end }}
{{- end }}

{{- define "portreeve.check" -}}
{{- if not .Values.dns.enabled }}
{{- if or .Values.dns.corefile .Values.dns.corefileConfigMap .Values.dns.metricsBindAddress }}
{{- fail "dns.corefile, dns.corefileConfigMap and dns.metricsBindAddress need dns.enabled" }}
{{- end }}
{{- if .Values.dns.service.create }}
{{- fail "dns.service.create needs dns.enabled: without it nothing answers at the Service" }}
{{- end }}
{{- end }}
{{- if and .Values.dns.corefile .Values.dns.corefileConfigMap }}
{{- fail "dns.corefile and dns.corefileConfigMap are two Corefiles: set one" }}
{{- end }}
{{- if and .Values.existingConfigMap (or .Values.config (include "portreeve.metricsBindAddress" .)) }}
{{- fail "config, metrics.bindAddress and metrics.serviceMonitor are written to the chart's own ConfigMap: with existingConfigMap set them there" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (or (hasPrefix "127." .Values.metrics.bindAddress) (hasPrefix "[::1]" .Values.metrics.bindAddress)) }}
{{- fail "metrics.serviceMonitor needs a metrics.bindAddress that Prometheus can reach" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.bindAddress (not (hasSuffix ":10249" .Values.metrics.bindAddress)) }}
{{- fail "metrics.serviceMonitor advertises port 10249: metrics.bindAddress has another one" }}
{{- end }}
{{- if and .Values.dns.service.create .Values.dns.metricsBindAddress (not (hasSuffix ":9153" .Values.dns.metricsBindAddress)) }}
{{- fail "dns.service advertises port 9153: dns.metricsBindAddress has another one" }}
{{- end }}
{{- end }}
