{{- /*
A pod of the server's image.
  root       $
  component  web, start, stop, watch or reconcile
  command    the words after uws-server
  signs      whether it makes or checks tokens and links, and so needs the signing secret
  store      whether it reaches the object store with the server's key
  account    whether it talks to the API server
  ready      where it is asked whether it can work
  ports      more of them
  lifecycle  of the container
*/ -}}
{{- define "uws.podTemplate" -}}
{{- $values := .root.Values -}}
{{- $own := index $values .component -}}
{{- /* Start asks registries, and a watcher when somebody has it check them. */ -}}
{{- $authorities := ternary $values.jobs.registryAuthorities "" (has .component (list "start" "watch")) -}}
metadata:
  labels:
    {{- include "uws.selector" . | nindent 4 }}
  annotations:
    checksum/settings: {{ include "uws.settings" .root | sha256sum }}
spec:
  serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
  automountServiceAccountToken: {{ .account }}
  enableServiceLinks: false
  {{- with $values.images.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile:
      type: RuntimeDefault
  {{- with $values.pods.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.pods.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "uws.selector" . | nindent 10 }}
  containers:
    - name: {{ .component }}
      image: {{ include "uws.image" (dict "root" .root "name" "server") | quote }}
      imagePullPolicy: {{ $values.images.pullPolicy }}
      args:
        {{- toYaml .command | nindent 8 }}
      env:
        - name: UWS_CONFIG
          value: /etc/uws/uws.yaml
        - name: UWS_REDIS__URL
          valueFrom:
            secretKeyRef:
              name: {{ include "uws.redisSecret" .root }}
              key: url
      ports:
        - name: operator
          containerPort: 9090
        {{- range .ports }}
        - {{ toYaml . | nindent 10 | trim }}
        {{- end }}
      readinessProbe:
        httpGet:
          path: {{ .ready }}
          port: operator
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:
        httpGet:
          path: /healthz
          port: operator
        initialDelaySeconds: 30
        periodSeconds: 20
        timeoutSeconds: 15
        failureThreshold: 5
      {{- with .lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: settings
          mountPath: /etc/uws
          readOnly: true
        {{- if .signs }}
        - name: signing
          mountPath: /run/uws/signing
          readOnly: true
        {{- end }}
        {{- if and .store $values.objects.credentialsSecret }}
        - name: objects
          mountPath: /run/uws/objects
          readOnly: true
        {{- end }}
        {{- if $authorities }}
        - name: authorities
          mountPath: /run/uws/authorities
          readOnly: true
        {{- end }}
        - name: data
          mountPath: /var/lib/uws
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: settings
      configMap:
        name: {{ .root.Release.Name }}-settings
    {{- if .signs }}
    - name: signing
      secret:
        secretName: {{ include "uws.signingSecret" .root }}
        # The server refuses a secret that everybody may read; fsGroup lets it read this one.
        defaultMode: 0440
        items:
          - key: secret
            path: secret
    {{- end }}
    {{- if and .store $values.objects.credentialsSecret }}
    - name: objects
      secret:
        secretName: {{ $values.objects.credentialsSecret }}
        defaultMode: 0440
        items:
          - key: credentials
            path: credentials
    {{- end }}
    {{- with $authorities }}
    - name: authorities
      configMap:
        name: {{ . }}
        items:
          - key: ca.crt
            path: ca.crt
    {{- end }}
    - name: data
      emptyDir: {}
    - name: tmp
      emptyDir: {}
{{- end }}
