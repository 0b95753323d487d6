{{/*
What the schema cannot say, or could say only as a regular expression: the form of texts, and rules
between values. Each refusal names the value and the way out.
*/}}
{{- define "router.validate" -}}
{{- $router := .Values.router -}}
{{- $discovery := $router.discovery -}}

{{- $isUrl := "^https?://[^\\s/?#]+(/[^\\s?#]*)?$" -}}
{{- $isQuantity := "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$" -}}
{{- $isName := "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" -}}
{{- $isServiceName := "^[a-z]([-a-z0-9]*[a-z0-9])?$" -}}
{{- $isDomain := "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$" -}}
{{- $isHost := printf "^(\\*\\.)?%s" (trimPrefix "^" $isDomain) -}}
{{- $isPortName := "^([1-9][0-9]{0,4}|[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?)?$" -}}
{{- $isShare := "^([0-9]+|[1-9]?[0-9]%|100%)$" -}}
{{- $isLabelKey := printf "^(%s/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" (trimPrefix "^" $isDomain | trimSuffix "$") -}}
{{- $isLabelValue := "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$" -}}
{{- $aName := "a name of an object: lower-case letters, digits, dashes and dots" -}}
{{- $aShare := "a number or a percentage such as 25%" -}}
{{- $isRepository := "^[^\\s:@]+(:[0-9]+/[^\\s:@]+)?$" -}}
{{- $forms := list
  (list "router.image.repository" $router.image.repository $isRepository "a repository without tag or digest, those have values of their own")
  (list "router.rootPath" $router.rootPath "^(/\\S*[^/\\s])?$" "a path that begins with a slash and does not end with one, or empty")
  (list "router.ingress.path" $router.ingress.path "^/" "a path that begins with a slash")
  (list "router.httpRoute.path" $router.httpRoute.path "^/" "a path that begins with a slash")
  (list "router.pdb.maxUnavailable" (toString $router.pdb.maxUnavailable) $isShare $aShare)
  (list "router.discovery.k8s.namespace" $discovery.k8s.namespace (printf "^$|%s" $isName) "a namespace: lower-case letters, digits and dashes")
  (list "router.discovery.k8s.port" (toString $discovery.k8s.port) $isPortName "a port, by number or by a name of up to 15 lower-case letters, digits and dashes")
  (list "fullnameOverride" .Values.fullnameOverride (printf "^$|%s" $isServiceName) "a Service's name: lower-case letters, digits and dashes, with a letter first")
  (list "nameOverride" .Values.nameOverride (printf "^$|%s" $isName) "a name of lower-case letters, digits and dashes")
  (list "clusterDomain" .Values.clusterDomain $isDomain "a domain such as cluster.local")
  (list "namespace" .Release.Namespace "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" "a namespace: up to 63 lower-case letters, digits and dashes")
  (list "monitoring.dashboards.namespace" .Values.monitoring.dashboards.namespace "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$" "a namespace: up to 63 lower-case letters, digits and dashes")
-}}
{{- range $index, $engine := $discovery.static.engines -}}
{{- $forms = append $forms (list (printf "router.discovery.static.engines[%d].url" $index) $engine.url $isUrl "a URL such as http://whisper-0:8000") -}}
{{- end -}}
{{- range $index, $engine := $discovery.file.engines -}}
{{- $forms = append $forms (list (printf "router.discovery.file.engines[%d].url" $index) $engine.url $isUrl "a URL such as http://whisper-0:8000") -}}
{{- end -}}
{{- range $index, $argument := $router.extraArgs -}}
{{- $forms = append $forms (list (printf "router.extraArgs[%d]" $index) $argument "^-" "a flag, with its value behind an equals sign") -}}
{{- end -}}
{{- range $name, $_ := .Values.engines.groups -}}
{{- $group := include "engines.group" (dict "root" $ "group" $name) | fromYaml -}}
{{- $at := printf "engines.groups.%s" $name -}}
{{- $forms = concat $forms (list
  (list $at $name "^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$" "a group's name: up to 15 lower-case letters, digits and dashes")
  (list (printf "%s.image.repository" $at) $group.image.repository $isRepository "a repository without tag or digest, those have values of their own")
  (list (printf "%s.shmSize" $at) $group.shmSize $isQuantity "a size such as 2Gi")
  (list (printf "%s.cache.size" $at) $group.cache.size $isQuantity "a size such as 30Gi")
  (list (printf "%s.keda.prometheusAddress" $at) $group.keda.prometheusAddress (printf "^$|%s" $isUrl) "a URL such as http://prometheus.monitoring:9090")
  (list (printf "%s.pdb.maxUnavailable" $at) (toString $group.pdb.maxUnavailable) $isShare $aShare)) -}}
{{- range $field := list "hfTokenSecret" "priorityClassName" "runtimeClassName" -}}
{{- $forms = append $forms (list (printf "%s.%s" $at $field) (index $group $field) (printf "^$|%s" $isDomain) $aName) -}}
{{- end -}}
{{- range $field := list "existingClaim" "storageClassName" -}}
{{- $forms = append $forms (list (printf "%s.cache.%s" $at $field) (index $group.cache $field) (printf "^$|%s" $isDomain) $aName) -}}
{{- end -}}
{{- $forms = append $forms (list (printf "%s.keda.authenticationRef" $at) $group.keda.authenticationRef (printf "^$|%s" $isDomain) $aName) -}}
{{- range $group.audioPackages -}}
{{- $forms = append $forms (list (printf "%s.audioPackages" $at) . "^[A-Za-z0-9._-]+==[^\\s=]+$" "a package at one version, such as av==17.0.1") -}}
{{- end -}}
{{- end -}}
{{- range $name, $monitor := dict "serviceMonitor" .Values.monitoring.serviceMonitor "podMonitor" .Values.monitoring.podMonitor -}}
{{- range $field := list "interval" "scrapeTimeout" -}}
{{- $forms = append $forms (list (printf "monitoring.%s.%s" $name $field) (index $monitor $field) "^([0-9]+(ms|s|m|h))+$" "a duration such as 15s") -}}
{{- end -}}
{{- end -}}
{{- range $path, $name := dict "router.auth.existingSecret" $router.auth.existingSecret "router.serviceAccount.name" $router.serviceAccount.name "router.priorityClassName" $router.priorityClassName "router.ingress.className" $router.ingress.className -}}
{{- $forms = append $forms (list $path $name (printf "^$|%s" $isDomain) $aName) -}}
{{- end -}}
{{- range $index, $secret := .Values.imagePullSecrets -}}
{{- $forms = append $forms (list (printf "imagePullSecrets[%d].name" $index) $secret.name $isDomain $aName) -}}
{{- end -}}
{{- range $index, $host := $router.ingress.hosts -}}
{{- $forms = append $forms (list (printf "router.ingress.hosts[%d]" $index) $host $isHost "a host name such as asr.example.org or *.example.org") -}}
{{- end -}}
{{- range $index, $host := $router.httpRoute.hostnames -}}
{{- $forms = append $forms (list (printf "router.httpRoute.hostnames[%d]" $index) $host $isHost "a host name such as asr.example.org or *.example.org") -}}
{{- end -}}

{{- $labels := dict "commonLabels" .Values.commonLabels "router.podLabels" $router.podLabels "router.nodeSelector" $router.nodeSelector -}}
{{- $strategies := dict "router.strategy" $router.strategy -}}
{{- range $name, $_ := .Values.engines.groups -}}
{{- $group := include "engines.group" (dict "root" $ "group" $name) | fromYaml -}}
{{- $_ := set $labels (printf "engines.groups.%s.podLabels" $name) $group.podLabels -}}
{{- $_ := set $labels (printf "engines.groups.%s.nodeSelector" $name) $group.nodeSelector -}}
{{- $_ := set $strategies (printf "engines.groups.%s.strategy" $name) $group.strategy -}}
{{- end -}}
{{- range $name := list "serviceMonitor" "podMonitor" "prometheusRule" -}}
{{- $_ := set $labels (printf "monitoring.%s.labels" $name) (index $.Values.monitoring $name).labels -}}
{{- end -}}
{{- $_ := set $labels "monitoring.dashboards.label" (dict .Values.monitoring.dashboards.label .Values.monitoring.dashboards.labelValue) -}}
{{- range $path, $map := $labels -}}
{{- range $key, $value := $map -}}
{{- $forms = concat $forms (list
  (list (printf "%s, key" $path) $key $isLabelKey "a label: up to 63 letters, digits, dashes, dots and underscores, behind a domain and a slash if at all")
  (list (printf "%s.%s" $path $key) (toString $value) $isLabelValue "a label's value: up to 63 letters, digits, dashes, dots and underscores, with a letter or digit at either end")) -}}
{{- if and (has $key (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "vllm-whisper-router/engine-group")) (not (hasSuffix ".nodeSelector" $path)) -}}
{{- fail (printf "%s: %s is a label by which the chart finds its own pods; choose another" $path $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $path, $strategy := $strategies -}}
{{- if and (ne $strategy.type "Recreate") $strategy.rollingUpdate -}}
{{- $zeros := 0 -}}
{{- range $field := list "maxSurge" "maxUnavailable" -}}
{{- $value := toString (index $strategy.rollingUpdate $field) -}}
{{- if hasKey $strategy.rollingUpdate $field -}}
{{- $forms = append $forms (list (printf "%s.rollingUpdate.%s" $path $field) $value $isShare $aShare) -}}
{{- if eq (trimSuffix "%" $value) "0" }}{{ $zeros = add1 $zeros }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if eq (int $zeros) 2 -}}
{{- fail (printf "%s.rollingUpdate: maxSurge and maxUnavailable are both 0, so that no pod could ever be replaced" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $forms -}}
{{- /* A default that --set x=null has deleted counts as empty. */ -}}
{{- $value := index . 1 | default "" -}}
{{- if not (regexMatch (index . 2) $value) -}}
{{- fail (printf "%s: %q is not %s" (index . 0) $value (index . 3)) -}}
{{- end -}}
{{- end -}}

{{- $fullname := include "router.fullname" . -}}
{{- if not (regexMatch $isServiceName $fullname) -}}
{{- fail (printf "release name %q: its Service would be called %q, and a Service's name has lower-case letters, digits and dashes only, with a letter first; choose another release name or set fullnameOverride" .Release.Name $fullname) -}}
{{- end -}}
{{- if and $router.service.nodePort (eq $router.service.type "ClusterIP") -}}
{{- fail "router.service.nodePort is given, but router.service.type is ClusterIP; use NodePort or LoadBalancer" -}}
{{- end -}}
{{- with regexFind "^[0-9]+$" (toString $discovery.k8s.port) -}}
{{- if gt (int .) 65535 -}}
{{- fail (printf "router.discovery.k8s.port: %s is not a port, which is 65535 at most" .) -}}
{{- end -}}
{{- end -}}

{{- if and (eq $discovery.type "static") (not $discovery.static.engines) -}}
{{- fail "router.discovery.static.engines is empty: with router.discovery.type static, name at least one engine, e.g. [{url: http://whisper-0:8000}]" -}}
{{- end -}}
{{- if and (eq $discovery.type "file") (not $discovery.file.engines) -}}
{{- fail "router.discovery.file.engines is empty: with router.discovery.type file, name at least one engine, e.g. [{url: http://whisper-0:8000}]" -}}
{{- end -}}
{{- range $field := list "model" "type" "label" -}}
{{- $given := 0 -}}
{{- range $discovery.static.engines }}{{ if hasKey . $field }}{{ $given = add1 $given }}{{ end }}{{ end -}}
{{- if and (gt (int $given) 0) (ne (int $given) (len $discovery.static.engines)) -}}
{{- fail (printf "router.discovery.static.engines: %q is given for %d of %d engines; give it for all or for none" $field (int $given) (len $discovery.static.engines)) -}}
{{- end -}}
{{- end -}}

{{- $auth := $router.auth -}}
{{- if and $auth.existingSecret (or $auth.apiKeys $auth.engineApiKey $auth.adminKey) -}}
{{- fail "router.auth: give either existingSecret or the keys themselves (apiKeys, engineApiKey, adminKey), not both" -}}
{{- end -}}
{{- range $key, $_ := $router.config -}}
{{- $flag := $key | replace "_" "-" -}}
{{- if has $flag (list "api-key" "engine-api-key" "admin-key") -}}
{{- fail (printf "router.config.%s: a ConfigMap is no place for a key; use router.auth" $key) -}}
{{- end -}}
{{- if has $flag (list "host" "port" "spool-dir" "spool-max-mb" "drain-timeout-s" "service-discovery" "config") -}}
{{- fail (printf "router.config.%s would be overruled by the chart's own flag --%s; use the chart's value for it" $key $flag) -}}
{{- end -}}
{{- end -}}
{{- range $router.extraArgs -}}
{{- if regexMatch "^--(engine-|admin-)?api-key(=|$)|^--admin-key(=|$)" . -}}
{{- fail "router.extraArgs: a command line is no place for a key, everybody who may list pods reads it; use router.auth" -}}
{{- end -}}
{{- end -}}

{{- $least := include "router.leastGracePeriodSeconds" . | int -}}
{{- with $router.terminationGracePeriodSeconds -}}
{{- if lt (int .) $least -}}
{{- fail (printf "router.terminationGracePeriodSeconds is %d: running requests would be cut off; at least %d is needed (drain timeout + preStopSleepSeconds + 15)" (int .) $least) -}}
{{- end -}}
{{- end -}}
{{- if and $router.hpa.enabled (gt (int $router.hpa.minReplicas) (int $router.hpa.maxReplicas)) -}}
{{- fail (printf "router.hpa.minReplicas (%d) is above maxReplicas (%d)" (int $router.hpa.minReplicas) (int $router.hpa.maxReplicas)) -}}
{{- end -}}
{{- if and $router.httpRoute.enabled (not $router.httpRoute.parentRefs) -}}
{{- fail "router.httpRoute.parentRefs is empty: name the gateway the route hangs on, e.g. [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- if and (not $router.serviceAccount.create) (not $router.serviceAccount.name) -}}
{{- fail "router.serviceAccount.name is empty: with create false, name an account that exists" -}}
{{- end -}}
{{- if and (eq $router.routing.logic "session") (not $router.routing.sessionKey) -}}
{{- fail "router.routing.sessionKey is empty: the routing logic session needs the name of a header" -}}
{{- end -}}
{{- if and $router.networkPolicy.enabled $router.networkPolicy.restrictEgress (has $discovery.type (list "static" "file")) (not $router.networkPolicy.extraEgress) -}}
{{- fail (printf "router.networkPolicy.extraEgress is empty: with restrictEgress and router.discovery.type %s the router could reach no engine; allow the way to them" $discovery.type) -}}
{{- end -}}

{{- range $name, $_ := .Values.engines.groups -}}
{{- $group := include "engines.group" (dict "root" $ "group" $name) | fromYaml -}}
{{- if not $group.model -}}
{{- fail (printf "engines.groups.%s.model is empty: name the model to load, e.g. openai/whisper-large-v3" $name) -}}
{{- end -}}
{{- if and (eq $group.cache.type "existingClaim") (not $group.cache.existingClaim) -}}
{{- fail (printf "engines.groups.%s.cache.existingClaim is empty: name the claim" $name) -}}
{{- end -}}
{{- if $group.keda.enabled -}}
{{- if not $group.keda.prometheusAddress -}}
{{- fail (printf "engines.groups.%s.keda.prometheusAddress is empty: KEDA needs to know where to ask, e.g. http://prometheus.monitoring:9090" $name) -}}
{{- end -}}
{{- if gt (int $group.keda.minReplicas) (int $group.keda.maxReplicas) -}}
{{- fail (printf "engines.groups.%s.keda.minReplicas (%d) is above maxReplicas (%d)" $name (int $group.keda.minReplicas) (int $group.keda.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
