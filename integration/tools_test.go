package integration

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
)

// Ordinary S3 tools read what is archived, without any of this program's code.
func TestOrdinaryTools(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	server := s3server.ForTest(t, s3server.MinIO)
	b := c.export(bucketOn(t, server, "tools", "logs"))
	c.create(shell("tools", "for i in 1 2 3; do echo line $i; done"))
	rec := c.await(b, 1, time.Minute)[0]
	want := c.kubectlLogs("tools")
	key := "tools/logs/" + rec.Objects[0].Key
	tools := map[string][]string{
		"awscli": {"aws", "s3", "cp", "s3://" + key, "-", "--endpoint-url", server.Endpoint, "--region", "us-east-1"},
		"rclone": {"rclone", "cat", "store:" + key},
	}
	install(t, "zstd", "zstdcat")
	for pkg, command := range tools {
		t.Run(pkg, func(t *testing.T) {
			install(t, pkg, command[0])
			cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
			cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+server.SecretKey,
				"RCLONE_CONFIG_STORE_TYPE=s3", "RCLONE_CONFIG_STORE_PROVIDER=Minio", "RCLONE_CONFIG_STORE_ENV_AUTH=true",
				"RCLONE_CONFIG_STORE_ENDPOINT="+server.Endpoint, "RCLONE_CONFIG_STORE_REGION=us-east-1",
				"AWS_CA_BUNDLE=") // rclone 1.60 fails when a CA bundle is set, even for plain HTTP
			cmd.Stderr = testLog{t}
			stored, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			zstdcat := exec.CommandContext(t.Context(), "zstdcat")
			zstdcat.Stdin, zstdcat.Stderr = bytes.NewReader(stored), testLog{t}
			got, err := zstdcat.Output()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v: %q, want %q", err, got, want)
			}
		})
	}
}

// install makes sure that a command is there, if need be by its Debian package.
func install(t *testing.T, pkg, command string) {
	t.Helper()
	if _, err := exec.LookPath(command); err == nil {
		return
	}
	_ = exec.CommandContext(t.Context(), "apt-get", "update", "-q").Run()                                     // an old list may do
	cmd := exec.CommandContext(t.Context(), "apt-get", "install", "-y", "-q", "--no-install-recommends", pkg) //nolint:gosec // as above
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install %s: %v\n%s", pkg, err, out)
	}
}
