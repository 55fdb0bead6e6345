package config

// Init returns a file to begin with.
func Init() []byte {
	return []byte(`# yaml-language-server: $schema=` + SchemaFile + `
# For completion and checks in your editor: kubelogexporter config schema > ` + SchemaFile + `
apiVersion: ` + APIVersion + `
kind: Config

# The cluster's name in the archive.
cluster: my-cluster

# Where the archive is. Keys for the bucket come from the environment (AWS_ACCESS_KEY_ID and so on), from
# the pod's own identity, or from files; they never stand here.
sink:
  s3:
    bucket: my-bucket
    prefix: logs
    region: us-east-1
    # endpoint: https://minio.example:9000
    # accessKeyIDFile: /var/run/s3/access-key-id
    # secretAccessKeyFile: /var/run/s3/secret-access-key

# Where captures wait until they are in the bucket. Put it on a volume.
spool:
  path: /spool

http:
  listen: ":8080"

# The first export that matches a run decides for it. Without this list everything is taken.
exports:
  # - name: crashes
  #   selection:
  #     namespaces: [prod-*]
  #     expression: container.exitCode != 0
  #   capture: live
  - name: everything-else
    selection:
      excludeNamespaces: [kube-system]
`)
}
