package redact

import (
	"strings"
	"testing"
)

// The secrets of these tests are made up, and put together only when a test runs, so that nobody's
// scanner takes them for real ones.
const (
	digits = "0123456789"
	lowers = "abcdefghijklmnopqrstuvwxyz"
	uppers = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// fake makes n characters that look like chance, of an alphabet.
func fake(n int, alphabet string) string {
	var b strings.Builder
	x := uint32(2463534242)
	for range n {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b.WriteByte(alphabet[x%uint32(len(alphabet))])
	}
	return b.String()
}

// TestBuiltin: « and » stand around what is removed.
func TestBuiltin(t *testing.T) {
	alnum := digits + lowers + uppers
	hex := digits + "abcdef"
	b64 := alnum + "+/"
	j := "eyJ" + fake(17, alnum)
	jwt := j + ".eyJ" + fake(40, alnum) + "." + fake(43, alnum+"-_")
	uuid := fake(8, hex) + "-" + fake(4, hex) + "-" + fake(4, hex) + "-" + fake(4, hex) + "-" + fake(12, hex)
	examples := map[string]struct{ yes, no []string }{
		"authorization-header": {
			yes: []string{
				`Authorization: Bearer «` + fake(30, alnum) + `»`,
				`{"Authorization":"Basic «` + fake(20, b64) + `==»"}`,
				`headers={\"authorization\":\"token «` + fake(40, hex) + `»\"}`,
				`map[Accept:[*/*] Authorization:[Bearer «` + fake(30, alnum) + `»] User-Agent:[curl]]`,
				`> proxy-authorization: Basic «` + fake(24, b64) + `»`,
			},
			no: []string{"authorization: required", "authorization failed for user bob", `"authorization":null`, "authorization=disabled", "Authorization: Bearer ${TOKEN}"},
		},
		"bearer-token": {
			yes: []string{"got bearer «" + fake(32, alnum) + "» from client", "Bearer «" + fake(16, alnum) + "»"},
			no:  []string{"bearer token missing", "Bearer authentication-required", `WWW-Authenticate: Bearer realm="https://auth.example.com"`},
		},
		"url-password": {
			yes: []string{"postgres://shop:«" + fake(12, alnum) + "»@db:5432/shop", `"redis://:«pw»@cache"`, "amqp://user:«p%2Fw!*»@mq/vhost", "mongodb+srv://a.b:«pw1»@h/db?w=majority"},
			no:  []string{"http://host:8080/path?mail=a@b.c", "https://example.com/@scope/pkg", "see http://a:b and c@d", "git+ssh://git@github.com/a/b", "jdbc:postgresql://db:5432/shop", "https://user:***@host/", "https://user:$PASS@host/", "https://user:${pass}@host/", "https://user:$(PASS)@host/", "redis://user:xxxxx@host"},
		},
		"aws-secret-access-key": {
			yes: []string{"AWS_SECRET_ACCESS_KEY=«" + fake(40, b64) + "»", `"secretAccessKey": "«` + fake(40, b64) + `»"`, "aws_secret_key: «" + fake(40, b64) + "»"},
			no:  []string{"AWS_SECRET_ACCESS_KEY is not set", "secret_access_key=unset", `secretAccessKey: ""`},
		},
		"aws-session-token": {
			yes: []string{"AWS_SESSION_TOKEN=«" + fake(120, b64) + "»", "?X-Amz-Security-Token=«" + fake(90, alnum+"%") + "»&x=1"},
			no:  []string{"aws_session_token expired", "aws_session_token=none"},
		},
		"aws-signature":     {yes: []string{"GET /b/k?X-Amz-Signature=«" + fake(64, hex) + "» 200"}, no: []string{"X-Amz-Signature=abc", "X-Amz-SignedHeaders=host"}},
		"azure-storage-key": {yes: []string{"DefaultEndpointsProtocol=https;AccountName=a;AccountKey=«" + fake(86, b64) + "==»;"}, no: []string{"AccountKey=short", "AccountKey is missing"}},
		"azure-sas":         {yes: []string{"https://a.blob.core.windows.net/c?sv=2024&sig=«" + fake(43, alnum) + "%3D»", "?sig=«" + fake(30, alnum) + "»&se=1"}, no: []string{"kill&sig=TERM", "x?sig=9"}},
		"password": {
			yes: []string{"password=«hunter2»", `{"user":"a","password":"«letmein»"}`, `DB_PASSWORD='«` + fake(12, alnum) + `»'`, "password: «hunter2»", `{\"passwd\":\"«` + fake(9, alnum) + `»\"}`, "?user=a&password=«" + fake(9, alnum) + "»&x=1", "passphrase => «Tr0ub4dor»", "PGPASSWORD=«swordfish»", "password=«$ecret2024»", "password=«$2a$10$" + fake(22, alnum) + "»", "password=«$PASS-and-more»"},
			no:  []string{"password: required", "Password: must be given", "password authentication failed for user bob", "password=****", "password=xxxxxxxx", `"password":null`, "password=<redacted>", "password=${DB_PASSWORD}", "password=$DB_PASSWORD", "password=$(DB_PASSWORD)", "password=%s", "passwords=1234567", "password_file=/run/secrets/db", "the password policy", "password: ", "password=[REDACTED]"},
		},
		"api-key": {
			yes: []string{"api_key=«" + fake(20, alnum) + "»", `"apiKey":"«` + fake(32, hex) + `»"`, "X-Api-Key: «" + fake(24, alnum) + "»", "private_key=«" + fake(24, alnum) + "»", "encryption-key=«" + fake(24, alnum) + "»"},
			no:  []string{"api key is missing", "api_key=null", "api-key: required", "apikeys=12345678", `"api_key":""`, "access_key_id=12345678"},
		},
		"secret": {
			yes: []string{"client_secret=«" + fake(24, alnum) + "»", `"secret":"«` + fake(32, hex) + `»"`, "webhook-secret: «" + fake(16, alnum) + "»"},
			no:  []string{`"Failed to mount" secret="kube-system/default-token-x7k2p"`, `secret="shop/db-credentials"`, "secret=my-app-tls", "secretName: shop-tls-2026", "secret not found", "secret=true", "secret: ${SECRET}"},
		},
		"token": {
			yes: []string{"access_token=«" + fake(24, alnum) + "»", `{"token":"«` + fake(40, hex) + `»"}`, "X-Auth-Token: «" + fake(32, hex) + "»", "id_token=«" + uuid + "»", "token=bearer «" + fake(20, alnum) + "»"},
			no:  []string{"max_tokens=4096", "total_tokens: 123456789", "token=123456789", `"token_type":"bearer"`, "token: expired-or-revoked", "unexpected token '}' at 5", "token=default-token-x7k2p", "token: <nil>", "token=null"},
		},
		"aws-access-key-id":         {yes: []string{"key «" + "AK" + "IA" + fake(16, uppers) + "» used"}, no: []string{"AKIA", "xAK" + "IA" + fake(16, uppers), "AK" + "IA" + fake(15, uppers) + "a", "AK" + "IA" + fake(17, uppers)}},
		"github-token":              {yes: []string{"«" + "gh" + "p_" + fake(36, alnum) + "»", "x:«" + "gh" + "s_" + fake(40, alnum) + "»"}, no: []string{"ghp_short", "high_" + fake(36, lowers)}},
		"github-fine-grained-token": {yes: []string{"«" + "github" + "_pat_" + fake(22, alnum) + "_" + fake(59, alnum) + "»"}, no: []string{"github_pat_x", "github_path"}},
		"gitlab-token":              {yes: []string{"«" + "gl" + "pat-" + fake(20, alnum) + "»", "«" + "gl" + "rt-" + fake(20, alnum) + "»"}, no: []string{"glpat-", "glut-" + fake(20, alnum)}},
		"slack-token":               {yes: []string{"«" + "xo" + "xb-" + fake(12, digits) + "-" + fake(24, alnum) + "»", "«" + "xa" + "pp-1-" + fake(30, alnum) + "»"}, no: []string{"xoxb-", "xoxz-" + fake(20, alnum)}},
		"slack-webhook":             {yes: []string{"POST https://hooks." + "slack.com/services/«T" + fake(8, uppers) + "/B" + fake(8, uppers) + "/" + fake(24, alnum) + "»"}, no: []string{"https://hooks.slack.com/services/x", "hooks-slack.com/services/" + fake(24, alnum)}},
		"stripe-key":                {yes: []string{"«" + "sk" + "_live_" + fake(24, alnum) + "»", "«" + "rk" + "_test_" + fake(24, alnum) + "»", "«wh" + "sec_" + fake(32, alnum) + "»"}, no: []string{"sk_live_", "task_live_" + fake(24, alnum), "pk_live_" + fake(24, alnum)}},
		"google-api-key":            {yes: []string{"?key=«" + "AI" + "za" + fake(35, alnum) + "»"}, no: []string{"AIza" + fake(20, alnum), "xAIza" + fake(35, alnum)}},
		"google-oauth":              {yes: []string{"«" + "ya" + "29." + fake(60, alnum) + "»", "«GOC" + "SPX-" + fake(28, alnum) + "»"}, no: []string{"ya29.x", "maya29." + fake(30, alnum)}},
		"npm-token":                 {yes: []string{"//npm.example.com/:_auth «" + "np" + "m_" + fake(36, alnum) + "»"}, no: []string{"npm_config_registry", "npm_lifecycle_event_and_more_of_it_here_x"}},
		"pypi-token":                {yes: []string{"«py" + "pi-AgEI" + fake(80, alnum) + "»"}, no: []string{"pypi-AgEI", "pypi-server"}},
		"docker-token":              {yes: []string{"«dc" + "kr_pat_" + fake(27, alnum) + "»"}, no: []string{"dckr_pat_x"}},
		"digitalocean-token":        {yes: []string{"«do" + "p_v1_" + fake(64, hex) + "»"}, no: []string{"dop_v1_" + fake(20, hex)}},
		"vault-token":               {yes: []string{"«hv" + "s." + fake(28, alnum) + "»"}, no: []string{"hvs.Close()", "xhvs." + fake(28, alnum)}},
		"sendgrid-key":              {yes: []string{"«S" + "G." + fake(22, alnum) + "." + fake(43, alnum) + "»"}, no: []string{"SG.example.com", "MSG." + fake(22, alnum) + "." + fake(43, alnum)}},
		"ai-api-key":                {yes: []string{"«sk" + "-ant-api03-" + fake(40, alnum) + "»", "«sk" + "-proj-" + fake(40, alnum) + "»"}, no: []string{"task-project-" + fake(30, lowers), "sk-ant-x"}},
		"huggingface-token":         {yes: []string{"«h" + "f_" + fake(34, alnum) + "»"}, no: []string{"hf_hub_download", "shelf_" + fake(34, lowers)}},
		"grafana-token":             {yes: []string{"«gl" + "sa_" + fake(32, alnum) + "_" + fake(8, hex) + "»"}, no: []string{"glsa_x"}},
		"shopify-token":             {yes: []string{"«sh" + "pat_" + fake(32, hex) + "»"}, no: []string{"shpat_x"}},
		"telegram-bot-token":        {yes: []string{"https://api.telegram.org/bot/«" + fake(9, "123456789") + ":A" + "A" + fake(33, alnum) + "»/getMe"}, no: []string{"12:AA" + fake(33, alnum), "fe80:AA:1", "123456789:AAB"}},
		"age-secret-key":            {yes: []string{"«AGE-" + "SECRET-KEY-1" + fake(58, digits+uppers) + "»"}, no: []string{"AGE-SECRET-KEY-1"}},
		"jwt":                       {yes: []string{"got «" + jwt + "» for bob", "token «" + jwt + "»."}, no: []string{"eyJ", j, j + "." + "x", "theyJ" + jwt[3:]}},
		"private-key":               {yes: []string{"key «-----BEGIN " + "PRIVATE KEY-----\\n" + fake(64, b64) + "\\n-----END " + "PRIVATE KEY-----»\\n"}, no: []string{"-----BEGIN CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----", "-----END PRIVATE KEY-----"}},
	}
	seen := 0
	for _, rule := range Builtin() {
		ex, ok := examples[rule.Name]
		if !ok || len(ex.yes) == 0 || len(ex.no) == 0 {
			t.Errorf("%s has no examples", rule.Name)
			continue
		}
		seen++
		r := mustNew(t, []Rule{rule})
		if len(r.Slow()) > 0 {
			t.Errorf("%s has no anchors", rule.Name)
		}
		for _, y := range ex.yes {
			in := at + strings.NewReplacer("«", "", "»", "").Replace(y)
			before, rest, _ := strings.Cut(y, "«")
			_, after, ok := strings.Cut(rest, "»")
			want := at + before + "[REDACTED:" + rule.Name + "]" + after
			if got, n := redact(t, r, []byte(in), whole); !ok || got != want || n[rule.Name] != 1 {
				t.Errorf("%s of %s:\n got %s\nwant %s", rule.Name, in, got, want)
			}
			if again, _ := redact(t, r, []byte(want), whole); again != want {
				t.Errorf("%s: a second time %s becomes %s", rule.Name, want, again)
			}
		}
		for _, n := range ex.no {
			if got, _ := redact(t, r, []byte(at+n), whole); got != at+n {
				t.Errorf("%s of %s: %s", rule.Name, n, got)
			}
		}
	}
	if seen != len(examples) {
		t.Errorf("examples of %d rules, of which %d exist", len(examples), seen)
	}
}

func TestPrivateKeyOverLines(t *testing.T) {
	r := builtins()
	b64 := digits + lowers + uppers + "+/"
	line := fake(64, b64)
	begin, end := "-----BEGIN RSA "+"PRIVATE KEY-----", "-----END RSA "+"PRIVATE KEY-----"
	gone := "[REDACTED:private-key]"
	for _, c := range []struct {
		name     string
		in, want []string
	}{
		{"plain", []string{"before", begin, line, line, "aGk=", end, "after " + line}, []string{"before", gone, gone, gone, gone, gone, "after " + line}},
		{"with headers and other lines between", []string{begin, "DEK-Info: AES-256-CBC,00", "", line, "GET /healthz 200", line, end, "x"}, []string{gone, "DEK-Info: AES-256-CBC,00", "", gone, "GET /healthz 200", gone, gone, "x"}},
		{"behind a prefix", []string{"app | " + begin, "app | " + line, "app | done", "app | " + end, "app | " + line}, []string{"app | " + gone, "app | " + gone, "app | done", gone, "app | " + line}},
		{"in source code", []string{`"` + begin + `\n" +`, `"` + line + `\n" +`, `"` + end + `";`}, []string{`"` + gone, `"` + gone + `\n" +`, gone + `";`}},
		{"indented, as in YAML", []string{"tls.key: |", "  " + begin, "  " + line, "  " + end}, []string{"tls.key: |", "  " + gone, "  " + gone, gone}},
		{"two", []string{begin + "x" + end + " and " + begin, line, end + begin, line, end, line}, []string{gone + " and " + gone, gone, gone + gone, gone, gone, line}},
		{"without an end", append([]string{begin}, lines(line, maxKeyLines+2)...), append(lines(gone, maxKeyLines+1), line, line)},
	} {
		in, want := strings.Builder{}, strings.Builder{}
		for _, l := range c.in {
			in.WriteString(at + l + "\n")
		}
		for _, l := range c.want {
			want.WriteString(at + l + "\n")
		}
		for _, n := range []int{1, 7, 1 << 20} {
			got, _ := redact(t, r, []byte(in.String()), func() int { return n })
			if got != want.String() {
				t.Errorf("%s, cut at %d:\n got %s\nwant %s", c.name, n, got, want.String())
			}
		}
	}
}

func lines(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}
