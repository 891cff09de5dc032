{{- define "uws.labels" -}}
app.kubernetes.io/name: uws-server
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What tells the pods of one component: dict "root" $ "component" NAME. */ -}}
{{- define "uws.selector" -}}
app.kubernetes.io/name: uws-server
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* What tells our Jobs in their namespace. */ -}}
{{- define "uws.instance" -}}
{{- printf "%s-%s" .Release.Namespace .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "uws.image" -}}
{{- printf "%suws-%s:%s" .root.Values.images.prefix .name (.root.Values.images.tag | default .root.Chart.AppVersion) -}}
{{- end }}

{{- define "uws.baseUrl" -}}
{{- if .Values.web.baseUrl -}}
{{- .Values.web.baseUrl | trimSuffix "/" -}}
{{- else if .Values.ingress.enabled -}}
{{- printf "%s://%s%s" (ternary "https" "http" (ne .Values.ingress.tlsSecret "")) .Values.ingress.host (.Values.ingress.path | trimSuffix "/") -}}
{{- end -}}
{{- end }}

{{- define "uws.signingSecret" -}}
{{- .Values.signingSecret | default (printf "%s-signing" .Release.Name) -}}
{{- end }}

{{- define "uws.redisSecret" -}}
{{- .Values.redis.urlSecret | default (printf "%s-redis" .Release.Name) -}}
{{- end }}

{{- /* The settings that every process reads, docs/configuration.md; what the operator adds comes last. */ -}}
{{- define "uws.settings" -}}
{{- $kubernetes := dict
  "namespace" .Values.jobs.namespace
  "instance" (include "uws.instance" .)
  "agent_image" (include "uws.image" (dict "root" . "name" "agent"))
  "notebook_image" (include "uws.image" (dict "root" . "name" "notebook"))
  "pull_secret" .Values.jobs.pullSecret -}}
{{- $objects := dict
  "url" .Values.objects.url
  "endpoint" .Values.objects.endpoint
  "public_endpoint" .Values.objects.publicEndpoint
  "region" .Values.objects.region -}}
{{- if .Values.objects.credentialsSecret -}}
{{- $_ := set $objects "credentials_file" "/run/uws/objects/credentials" -}}
{{- end -}}
{{- $web := dict
  "host" "0.0.0.0"
  "port" 8080
  "base_url" (include "uws.baseUrl" .)
  "agent_url" (printf "http://%s-web.%s.svc" .Release.Name .Release.Namespace) -}}
{{- $ours := dict
  "data" "/var/lib/uws"
  "secret_file" "/run/uws/signing/secret"
  "web" $web
  "objects" $objects
  "auth" (dict "anonymous" .Values.auth.anonymous)
  "sites" (dict "cluster" (dict "runner" "kubernetes" "kubernetes" $kubernetes))
  "operator" (dict "host" "0.0.0.0" "port" 9090)
  "log" (dict "format" "json") -}}
{{- $all := mergeOverwrite $ours (deepCopy .Values.settings) -}}
{{- if .Values.jobs.registryAuthorities -}}
{{- $registries := dig "sites" "cluster" "kubernetes" "registries" dict $all -}}
{{- range $host, $said := $registries -}}
{{- $_ := set $registries $host (merge ($said | default dict) (dict "ca_file" "/run/uws/authorities/ca.crt")) -}}
{{- end -}}
{{- end -}}
{{- $all | toYaml -}}
{{- end }}
