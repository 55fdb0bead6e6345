package sink

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// errNoCredentials says that no credentials were found where they were looked for. A request is
// never sent unsigned instead.
var errNoCredentials = errors.New("no credentials")

// credentialModes are the places that credentials may come from. With auto the first that is
// configured counts; if it fails, no other is tried, because that would be another identity.
var credentialModes = [...]string{"auto", "env", "files", "shared", "web-identity", "pod-identity", "instance-role"} //nolint:gochecknoglobals // a constant list

// autoMode finds the first place that is configured.
func autoMode(o S3Options) string {
	switch {
	case o.AccessKeyIDFile != "":
		return "files"
	case os.Getenv("AWS_ACCESS_KEY_ID") != "":
		return "env"
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		return "web-identity"
	case os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "":
		return "pod-identity"
	case os.Getenv("AWS_SHARED_CREDENTIALS_FILE") != "" || os.Getenv("AWS_PROFILE") != "" || exists(sharedFile()):
		return "shared"
	}
	return "instance-role"
}

func sharedFile() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".aws", "credentials")
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return file != "" && err == nil
}

// newCredentials makes the provider for a mode, guarded against unsigned requests.
func newCredentials(o S3Options, client *http.Client) (*credentials.Credentials, error) {
	mode := o.Credentials
	if mode == "" || mode == "auto" {
		mode = autoMode(o)
	}
	if !slices.Contains(credentialModes[:], mode) {
		return nil, fmt.Errorf("credentials %q: want one of %s", mode, strings.Join(credentialModes[:], ", "))
	}
	var p credentials.Provider
	switch mode {
	case "env":
		p = &credentials.EnvAWS{}
	case "files":
		if o.AccessKeyIDFile == "" || o.SecretAccessKeyFile == "" {
			return nil, errors.New("credentials from files: name the access key's and the secret's file")
		}
		p = &keyFiles{o: o}
	case "shared":
		p = &credentials.FileAWSCredentials{}
	case "web-identity":
		if os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") == "" {
			return nil, errors.New("credentials from a web identity: AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN are not set")
		}
		p = &credentials.IAM{Client: client, Region: o.Region, Endpoint: os.Getenv("AWS_ENDPOINT_URL_STS")}
	default:
		if err := onlyPlace(mode); err != nil {
			return nil, err
		}
		iam := &credentials.IAM{Client: client, Region: o.Region}
		if mode == "instance-role" {
			iam.Endpoint = os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT") // as the AWS SDKs have it; IPv6-only nodes need it
		}
		p = iam
	}
	return credentials.New(&guard{mode: mode, inner: p}), nil
}

// onlyPlace says whether the client's provider will look where mode says: it picks the place by the
// environment, and another place is another identity.
func onlyPlace(mode string) error {
	webIdentity := os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != ""
	container := os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != ""
	switch {
	case mode == "pod-identity" && !container:
		return errors.New("credentials from a pod identity: AWS_CONTAINER_CREDENTIALS_FULL_URI is not set")
	case webIdentity:
		return fmt.Errorf("credentials from %s: AWS_WEB_IDENTITY_TOKEN_FILE is set and would go first: unset it, or choose web-identity", mode)
	case mode == "instance-role" && container:
		return errors.New("credentials from instance-role: AWS_CONTAINER_CREDENTIALS_FULL_URI is set and would go first: unset it, or choose pod-identity")
	}
	return nil
}

// guard stands between the client and a provider. The client signs nothing when it gets empty keys,
// and its chain hides errors; the guard returns an error instead, and uses the last good keys until
// they really expire when a refresh fails.
type guard struct {
	mode  string
	inner credentials.Provider

	mu      sync.Mutex
	last    credentials.Value
	askedAt time.Time // of the refresh that failed last
}

// refreshPause is how long a failed refresh is not tried again while the last keys live. Each try may
// take the 30 seconds of a timeout, and all requests wait for it.
const refreshPause = 20 * time.Second

// alive says whether the last keys may still be used.
func (g *guard) alive() bool {
	return g.last.AccessKeyID != "" && time.Now().Before(g.last.Expiration)
}

// RetrieveWithCredContext implements credentials.Provider.
func (g *guard) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v, err := g.inner.RetrieveWithCredContext(cc)
	if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" && v.SignerType != credentials.SignatureAnonymous {
		g.last = v
		return v, nil
	}
	if g.alive() {
		g.askedAt = time.Now()
		return g.last, nil
	}
	if err != nil {
		return credentials.Value{}, fmt.Errorf("%w from %s: %w", errNoCredentials, g.mode, err)
	}
	return credentials.Value{}, fmt.Errorf("%w from %s", errNoCredentials, g.mode)
}

// Retrieve implements credentials.Provider.
func (g *guard) Retrieve() (credentials.Value, error) {
	return g.RetrieveWithCredContext(&credentials.CredContext{Client: http.DefaultClient, Context: context.Background()})
}

// IsExpired implements credentials.Provider.
func (g *guard) IsExpired() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.alive() && time.Since(g.askedAt) < refreshPause {
		return false
	}
	return g.inner.IsExpired()
}

// keyFiles reads keys from files, such as a mounted Secret, and again when one of them changes.
type keyFiles struct {
	o    S3Options
	seen [3]time.Time
}

func (k *keyFiles) names() [3]string {
	return [3]string{k.o.AccessKeyIDFile, k.o.SecretAccessKeyFile, k.o.SessionTokenFile}
}

// RetrieveWithCredContext implements credentials.Provider.
func (k *keyFiles) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	k.seen = k.times()
	var text [3]string
	for i, name := range k.names() {
		if name == "" {
			continue
		}
		data, err := os.ReadFile(name) //nolint:gosec // the user names the file
		if err != nil {
			return credentials.Value{}, err
		}
		text[i] = strings.TrimSpace(string(data))
	}
	return credentials.Value{AccessKeyID: text[0], SecretAccessKey: text[1], SessionToken: text[2], SignerType: credentials.SignatureV4}, nil
}

// Retrieve implements credentials.Provider.
func (k *keyFiles) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

// IsExpired says whether a file has changed since it was read.
func (k *keyFiles) IsExpired() bool { return k.seen != k.times() }

func (k *keyFiles) times() (t [3]time.Time) {
	for i, name := range k.names() {
		if info, err := os.Stat(name); err == nil {
			t[i] = info.ModTime()
		}
	}
	return t
}
