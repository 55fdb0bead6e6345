package sink_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// signedBy returns the access key that a request was signed with.
func signedBy(r *http.Request) string {
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(rest, "/")
	return key
}

func (f *fakeS3) last() *http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) == 0 {
		return &http.Request{}
	}
	return f.requests[len(f.requests)-1]
}

// clearAWS takes away what the machine's own environment says.
func clearAWS(t *testing.T) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", t.TempDir())
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCredentialsFromEnvironment(t *testing.T) {
	clearAWS(t)
	f := newFakeS3(t, nil)
	t.Setenv("AWS_SESSION_TOKEN", "session")
	b := f.open(t)
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if r := f.last(); signedBy(r) != testAccess || r.Header.Get("X-Amz-Security-Token") != "session" {
		t.Errorf("signed by %q with token %q", signedBy(r), r.Header.Get("X-Amz-Security-Token"))
	}
}

// TestCredentialsFromFiles rotates a mounted Secret.
func TestCredentialsFromFiles(t *testing.T) {
	clearAWS(t)
	f := newFakeS3(t, nil)
	dir := t.TempDir()
	o := sink.S3Options{Credentials: "auto", AccessKeyIDFile: filepath.Join(dir, "id"), SecretAccessKeyFile: filepath.Join(dir, "secret")}
	b := f.openWith(t, o) // the files may come later than the program
	_, err := b.Stat(t.Context(), "a")
	if err == nil || sink.ClassOf(err) != sink.ClassHold || !strings.Contains(sink.Hint(err), "AWS_ACCESS_KEY_ID") {
		t.Errorf("without the files: got %v, hint %q", err, sink.Hint(err))
	}
	if n := len(f.requests); n != 0 {
		t.Errorf("without keys %d requests were sent", n)
	}
	for i, id := range []string{"FIRST", "SECOND"} {
		for _, file := range []string{o.AccessKeyIDFile, o.SecretAccessKeyFile} {
			write(t, file, id+"\n")
			when := time.Unix(1_700_000_000+int64(i), 0) // a second apart, however fast the test is
			if err := os.Chtimes(file, when, when); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Stat(t.Context(), "a"); !errors.Is(err, sink.ErrNotFound) {
			t.Fatalf("%s: %v", id, err)
		}
		if got := signedBy(f.last()); got != id {
			t.Errorf("signed by %q, want %q", got, id)
		}
	}
	write(t, o.SecretAccessKeyFile, "")
	when := time.Unix(1_800_000_000, 0)
	if err := os.Chtimes(o.SecretAccessKeyFile, when, when); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat(t.Context(), "a"); err == nil || errors.Is(err, sink.ErrNotFound) {
		t.Errorf("with an empty secret: got %v", err)
	}
}

// TestCredentialsRefused checks that keys which the store refuses are read again, although their
// file looks the same.
func TestCredentialsRefused(t *testing.T) {
	clearAWS(t)
	f := newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
		if signedBy(r) == "NEW" {
			return false
		}
		refuse(w, http.StatusForbidden, "InvalidAccessKeyId")
		return true
	})
	dir, when := t.TempDir(), time.Unix(1_700_000_000, 0)
	o := sink.S3Options{Credentials: "files", AccessKeyIDFile: write(t, filepath.Join(dir, "id"), "OLD"), SecretAccessKeyFile: write(t, filepath.Join(dir, "secret"), testSecret)}
	_ = os.Chtimes(o.AccessKeyIDFile, when, when)
	b := f.openWith(t, o)
	err := b.Put(t.Context(), "a", strings.NewReader("x"))
	if sink.ClassOf(err) != sink.ClassHold {
		t.Errorf("old key: got %v", err)
	}
	checkSecret(t, err, b.String())
	write(t, o.AccessKeyIDFile, "NEW")
	_ = os.Chtimes(o.AccessKeyIDFile, when, when)
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Errorf("new key: %v", err)
	}
}

// TestCredentialsFromWebIdentity asks a fake STS. When the STS fails, the old keys serve until they
// really expire; after that nothing is sent.
func TestCredentialsFromWebIdentity(t *testing.T) {
	clearAWS(t)
	f := newFakeS3(t, nil)
	asked, fails := 0, false
	lifetime := time.Hour
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("WebIdentityToken") != "the-token" || r.FormValue("RoleArn") != "arn:role" {
			t.Errorf("asked for %v", r.Form)
		}
		if fails {
			http.Error(w, "<ErrorResponse><Error><Code>Throttling</Code><Message>later</Message></Error></ErrorResponse>", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
			<AccessKeyId>STS%d</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration>
			</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, asked, testSecret, time.Now().Add(lifetime).UTC().Format(time.RFC3339Nano))
	}))
	defer sts.Close()
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", write(t, filepath.Join(t.TempDir(), "token"), "the-token"))
	t.Setenv("AWS_ROLE_ARN", "arn:role")
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)

	b := f.openWith(t, sink.S3Options{})
	stat := func() (string, error) {
		_, err := b.Stat(t.Context(), "a")
		checkSecret(t, err)
		return signedBy(f.last()), err
	}
	for range 2 {
		if by, err := stat(); by != "STS1" || !errors.Is(err, sink.ErrNotFound) {
			t.Fatalf("signed by %q, %v", by, err)
		}
	}

	lifetime = 2 * time.Second // the client refreshes at 80 %
	b = f.openWith(t, sink.S3Options{Credentials: "web-identity"})
	if by, err := stat(); by != "STS2" || !errors.Is(err, sink.ErrNotFound) {
		t.Fatalf("signed by %q, %v", by, err)
	}
	fails = true
	expires := time.Now().Add(lifetime)
	<-time.After(1700 * time.Millisecond) // the provider takes the time from time.Now
	for range 3 {                         // the last two do not ask again
		if by, err := stat(); by != "STS2" || !errors.Is(err, sink.ErrNotFound) {
			t.Errorf("with an STS that fails and keys that live: signed by %q, %v", by, err)
		}
	}
	if asked != 3 {
		t.Errorf("the STS was asked %d times, want 3", asked)
	}
	<-time.After(time.Until(expires) + 50*time.Millisecond)
	n := len(f.requests)
	if _, err := stat(); err == nil || errors.Is(err, sink.ErrNotFound) || sink.ClassOf(err) != sink.ClassHold {
		t.Errorf("with an STS that fails and dead keys: %v", err)
	}
	if len(f.requests) != n {
		t.Errorf("with dead keys a request was sent: %v", f.last().Header)
	}
	fails, lifetime = false, time.Hour
	if by, err := stat(); by != "STS5" || !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("with an STS that works again: signed by %q, %v", by, err)
	}
}

func TestCredentialsFromPodIdentity(t *testing.T) {
	clearAWS(t)
	f := newFakeS3(t, nil)
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "the-token" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"AccessKeyId": "POD", "SecretAccessKey": testSecret, "Token": "session", "Expiration": time.Now().Add(time.Hour)})
	}))
	defer agent.Close()
	token := filepath.Join(t.TempDir(), "token")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL)
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token)
	b := f.openWith(t, sink.S3Options{})
	write(t, token, "wrong")
	if _, err := b.Stat(t.Context(), "a"); sink.ClassOf(err) != sink.ClassHold || !strings.Contains(err.Error(), "pod-identity") || len(f.requests) != 0 {
		t.Errorf("refused by the agent: %v, %d requests", err, len(f.requests))
	}
	write(t, token, "the-token")
	if _, err := b.Stat(t.Context(), "a"); !errors.Is(err, sink.ErrNotFound) || signedBy(f.last()) != "POD" {
		t.Errorf("signed by %q, %v", signedBy(f.last()), err)
	}
}

// TestCredentialsFromInstanceRole asks a fake metadata service of the second version. While it
// does not answer, nothing is sent before there were keys, and the last ones serve afterwards.
func TestCredentialsFromInstanceRole(t *testing.T) {
	clearAWS(t)
	f := newFakeS3(t, nil)
	away := true
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const roles = "/latest/meta-data/iam/security-credentials/"
		switch token := r.Header.Get("X-Aws-Ec2-Metadata-Token"); {
		case away:
			http.Error(w, "no", http.StatusServiceUnavailable)
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			fmt.Fprint(w, "a-session")
		case token != "a-session":
			http.Error(w, "no", http.StatusUnauthorized)
		case r.URL.Path == roles:
			fmt.Fprintln(w, "node-role")
		case r.URL.Path == roles+"node-role":
			_ = json.NewEncoder(w).Encode(map[string]any{"Code": "Success", "AccessKeyId": "NODE", "SecretAccessKey": testSecret, "Token": "session", "Expiration": time.Now().Add(time.Hour)})
		default:
			http.NotFound(w, r)
		}
	}))
	defer imds.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.URL)
	b := f.openWith(t, sink.S3Options{}) // nothing else is configured
	if _, err := b.Stat(t.Context(), "a"); sink.ClassOf(err) != sink.ClassHold || !strings.Contains(err.Error(), "instance-role") || len(f.requests) != 0 {
		t.Errorf("without the service: %v, %d requests", err, len(f.requests))
	}
	away = false
	if _, err := b.Stat(t.Context(), "a"); !errors.Is(err, sink.ErrNotFound) || signedBy(f.last()) != "NODE" || f.last().Header.Get("X-Amz-Security-Token") != "session" {
		t.Errorf("signed by %q, %v", signedBy(f.last()), err)
	}
	away = true // the keys live on
	if _, err := b.Stat(t.Context(), "a"); !errors.Is(err, sink.ErrNotFound) || signedBy(f.last()) != "NODE" {
		t.Errorf("signed by %q, %v", signedBy(f.last()), err)
	}
}

// TestCredentialsOnePlace checks that a place named is the place asked, or an error.
func TestCredentialsOnePlace(t *testing.T) {
	clearAWS(t)
	open := func(mode string) error {
		_, err := sink.OpenS3(t.Context(), sink.S3Options{Bucket: "logs", Credentials: mode})
		return err
	}
	if err := open("instance-role"); err != nil {
		t.Errorf("instance-role: %v", err)
	}
	for _, mode := range []string{"web-identity", "pod-identity", "files"} {
		if open(mode) == nil {
			t.Errorf("%s without its variables or files: no error", mode)
		}
	}
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost")
	if open("instance-role") == nil {
		t.Error("instance-role where a pod identity would be taken: no error")
	}
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "token")
	if open("pod-identity") == nil {
		t.Error("pod-identity where a web identity would be taken: no error")
	}
}

// TestCredentialsRefusedHead: a store without conditions is asked with HEAD first, whose refusal says no code. Keys
// that were replaced are read again then too.
func TestCredentialsRefusedHead(t *testing.T) {
	clearAWS(t)
	valid := "OLD"
	f := newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case signedBy(r) != valid:
			refuse(w, http.StatusForbidden, "InvalidAccessKeyId")
		case r.Header.Get("If-None-Match")+r.Header.Get("If-Match") != "":
			refuse(w, http.StatusNotImplemented, "NotImplemented")
		default:
			return false
		}
		return true
	})
	dir, when := t.TempDir(), time.Unix(1_700_000_000, 0)
	o := sink.S3Options{Credentials: "files", AccessKeyIDFile: write(t, filepath.Join(dir, "id"), "OLD"), SecretAccessKeyFile: write(t, filepath.Join(dir, "secret"), testSecret)}
	_ = os.Chtimes(o.AccessKeyIDFile, when, when)
	b := f.openWith(t, o)
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	valid = "NEW"
	write(t, o.AccessKeyIDFile, "NEW")
	_ = os.Chtimes(o.AccessKeyIDFile, when, when) // it looks the same
	if err := b.Put(t.Context(), "b", strings.NewReader("x")); sink.ClassOf(err) != sink.ClassHold || f.last().Method != http.MethodHead {
		t.Errorf("old key: %v, after %s", err, f.last().Method)
	}
	if err := b.Put(t.Context(), "b", strings.NewReader("x")); err != nil {
		t.Errorf("new key: %v", err)
	}
}
