{{/* Names and labels. */}}
{{- define "headrace.name" -}}
{{ ternary .Release.Name (printf "%s-headrace" .Release.Name) (contains "headrace" .Release.Name) | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "headrace.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "headrace.selector" . }}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "headrace.name" .) }}
{{- end }}

{{- define "headrace.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What may not be: said at once, not by a pod that never gets ready. */}}
{{- define "headrace.check" -}}
{{- if not .Values.kafka.bootstrap }}{{ fail "kafka.bootstrap is empty: name your brokers, host:port" }}{{ end }}
{{- $workers := ternary .Values.worker.autoscaling.maxReplicas .Values.worker.replicas .Values.worker.autoscaling.enabled | int }}
{{- if gt $workers (int .Values.kafka.partitions) }}
{{- fail (printf "%d workers on %d partitions: a worker without a partition never gets ready; raise kafka.partitions, and the topic's" $workers (int .Values.kafka.partitions)) }}
{{- end }}
{{- if gt (int .Values.worker.autoscaling.minReplicas) (int .Values.worker.autoscaling.maxReplicas) }}
{{- fail "worker.autoscaling: minReplicas is greater than maxReplicas" }}
{{- end }}
{{- end }}

{{/* Pods and containers as the restricted Pod Security Standard wants them, and stricter. */}}
{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Variables of every process: Kafka, and whatever else is set. */}}
{{- define "headrace.env" -}}
- {name: HEADRACE_KAFKA, value: {{ .Values.kafka.bootstrap | quote }}}
- {name: HEADRACE_KAFKA__PARTITIONS, value: {{ .Values.kafka.partitions | quote }}}
- {name: HEADRACE_KAFKA__REPLICATION, value: {{ .Values.kafka.replication | quote }}}
{{- range $name, $value := .Values.kafka.security }}
- {name: HEADRACE_KAFKA__SECURITY__{{ $name | replace "." "_" | upper }}, value: {{ $value | quote }}}
{{- end }}
{{- if .Values.kafka.password.secret }}
- {name: HEADRACE_KAFKA__SECURITY__SASL_PASSWORD_FILE, value: /etc/headrace/kafka-password/{{ .Values.kafka.password.key }}}
{{- end }}
{{- if .Values.kafka.ca.secret }}
- {name: HEADRACE_KAFKA__SECURITY__SSL_CA_LOCATION, value: /etc/headrace/kafka-ca/{{ .Values.kafka.ca.key }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: HEADRACE_{{ $name | replace "." "__" | upper }}, value: {{ ternary ($value | toString) ($value | toJson) (or (kindIs "string" $value) (kindIs "bool" $value)) | quote }}}
{{- end }}
{{- end }}

{{- define "headrace.mounts" -}}
- {name: data, mountPath: /var/lib/headrace}
- {name: tmp, mountPath: /tmp}
{{- if .Values.kafka.password.secret }}
- {name: kafka-password, mountPath: /etc/headrace/kafka-password, readOnly: true}
{{- end }}
{{- if .Values.kafka.ca.secret }}
- {name: kafka-ca, mountPath: /etc/headrace/kafka-ca, readOnly: true}
{{- end }}
{{- end }}

{{/* Takes the root and, as `dataSizeLimit`, what the data folder may hold. */}}
{{- define "headrace.volumes" -}}
- {name: data, emptyDir: {sizeLimit: {{ .dataSizeLimit }}}}
- {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- with .root.Values.kafka.password }}
{{- if .secret }}
- {name: kafka-password, secret: {secretName: {{ .secret }}, defaultMode: 0440, items: [{key: {{ .key }}, path: {{ .key }}}]}}
{{- end }}
{{- end }}
{{- with .root.Values.kafka.ca }}
{{- if .secret }}
- {name: kafka-ca, secret: {secretName: {{ .secret }}, defaultMode: 0440, items: [{key: {{ .key }}, path: {{ .key }}}]}}
{{- end }}
{{- end }}
{{- end }}

{{/* Takes the seconds that a start may take. */}}
{{- define "headrace.probes" -}}
startupProbe:
  httpGet: {path: /health/live, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ div (int .) 2 }}
livenessProbe:
  httpGet: {path: /health/live, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /health/ready, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* What every pod has beside its container. Takes the root and, as `part`, its values. */}}
{{- define "headrace.pod" -}}
serviceAccountName: {{ include "headrace.serviceAccount" .root }}
automountServiceAccountToken: false
# Kubernetes' variables for each Service would look like settings.
enableServiceLinks: false
securityContext:
  {{- include "headrace.podSecurity" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The consumer group of the workers, as the setting worker.group makes it. */}}
{{- define "headrace.group" -}}
{{ get .Values.settings "worker.group" | default "headrace-{domain}" | replace "{domain}" .Values.worker.domain }}
{{- end }}
