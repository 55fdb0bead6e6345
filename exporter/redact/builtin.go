package redact

import (
	"bytes"
	"slices"
)

// What stands between a name and its value: `=`, `: `, `":"`, `\":\"`, ` => `, `: [` of a printed map.
const (
	is    = `\\?["']?\s{0,3}(?:=>?|:=?)\s{0,3}(?:\[|\\?["'])?`
	value = `[^\s"'\\,;&<>(){}\[\]]`
)

// Builtin returns the rules for common secrets. They may be left out one by one, by name, and the
// replacements changed; New takes them together with others.
//
// The formats with a prefix of their own are matched wherever they stand. Names such as "password" and
// "token" are matched with the value that is assigned to them, unless the value is clearly no secret:
// a mask, a placeholder, a word of prose behind a colon; for tokens and secrets also a number or a name
// such as Kubernetes' components log.
func Builtin() []Rule {
	return append(assigned(), prefixed()...)
}

// assigned are known by what stands before them.
func assigned() []Rule {
	return []Rule{
		{Name: keyRule, Pattern: keyBegin, key: true},
		{Name: "authorization-header", Pattern: `(?i)authorization` + is + `(?:(?:bearer|basic|digest|negotiate|token|apikey)\s+)?(?P<secret>[^\s"'\\,\]]{8,})`, keep: isWord},
		{Name: "bearer-token", Pattern: `(?i)bearer\s+(?P<secret>[a-z0-9._~+/=-]{16,})`, keep: isWord},
		// A password with / ? or # must be escaped in a URL; without that, http://host:80/?q=a@b would be one.
		{Name: "url-password", Pattern: `://[^\s/?#:@"'<>\\]*:(?P<secret>[^\s/?#@"'<>]+)@`, keep: isMask},
		{Name: "aws-secret-access-key", Pattern: `(?i)(?:secret_?access_?key|aws_?secret_?key)` + is + `(?P<secret>[a-z0-9/+=]{40})`},
		{Name: "aws-session-token", Pattern: `(?i)(?:aws_?session_?token|x-amz-security-token)` + is + `(?P<secret>[a-z0-9/+=%]{64,})`},
		{Name: "aws-signature", Pattern: `(?i)x-amz-signature=(?P<secret>[0-9a-f]{64})`},
		{Name: "azure-storage-key", Pattern: `(?:AccountKey|SharedAccessKey)=(?P<secret>[A-Za-z0-9+/]{40,}={0,2})`},
		{Name: "azure-sas", Pattern: `[?&]sig=(?P<secret>[A-Za-z0-9%/+=_-]{20,})`},
		{Name: "password", Pattern: `(?i)(?:password|passwd|passphrase)` + is + `(?P<secret>` + value + `{4,})`, keep: isProse},
		{Name: "api-key", Pattern: `(?i)(?:api|access|auth|secret|private|encryption|signing)[_.-]?key` + is + `(?P<secret>` + value + `{8,})`, keep: isProse},
		{Name: "secret", Pattern: `(?i)secret` + is + `(?P<secret>` + value + `{6,})`, keep: isName},
		{Name: "token", Pattern: `(?i)token` + is + `(?:(?:bearer|basic)\s+)?(?P<secret>` + value + `{8,})`, keep: isName},
	}
}

// prefixed are known by their own first characters.
func prefixed() []Rule {
	return []Rule{
		{Name: "aws-access-key-id", Pattern: `\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b`},
		{Name: "github-token", Pattern: `\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36,}`},
		{Name: "github-fine-grained-token", Pattern: `\bgithub_pat_[A-Za-z0-9_]{22,}`},
		{Name: "gitlab-token", Pattern: `\bgl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[A-Za-z0-9_.-]{20,}`},
		{Name: "slack-token", Pattern: `\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}`},
		{Name: "slack-webhook", Pattern: `hooks\.slack\.com/(?:services|workflows|triggers)/(?P<secret>[A-Za-z0-9/+_-]{20,})`},
		{Name: "stripe-key", Pattern: `\b(?:[sr]k_(?:live|test)_|whsec_)[A-Za-z0-9]{16,}`},
		{Name: "google-api-key", Pattern: `\bAIza[A-Za-z0-9_-]{35}`},
		{Name: "google-oauth", Pattern: `\b(?:ya29\.|GOCSPX-)[A-Za-z0-9_-]{20,}`},
		{Name: "npm-token", Pattern: `\bnpm_[A-Za-z0-9]{36}`},
		{Name: "pypi-token", Pattern: `\bpypi-AgEI[A-Za-z0-9_-]{50,}`},
		{Name: "docker-token", Pattern: `\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}`},
		{Name: "digitalocean-token", Pattern: `\bdo[opr]_v1_[a-f0-9]{64}`},
		{Name: "vault-token", Pattern: `\bhv[bsr]\.[A-Za-z0-9_-]{24,}`},
		{Name: "sendgrid-key", Pattern: `\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}`},
		{Name: "ai-api-key", Pattern: `\bsk-(?:ant|proj|svcacct|admin)-[A-Za-z0-9_-]{20,}`},
		{Name: "huggingface-token", Pattern: `\bhf_[A-Za-z0-9]{34,}`},
		{Name: "grafana-token", Pattern: `\bgl(?:c|sa)_[A-Za-z0-9_=+/]{30,}`},
		{Name: "shopify-token", Pattern: `\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}`},
		{Name: "telegram-bot-token", Pattern: `\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}\b`},
		{Name: "age-secret-key", Pattern: `AGE-SECRET-KEY-1[0-9A-Z]{58}`},
		// The header of a JWT begins with {" and so does the JSON behind most of the base64 that does.
		{Name: "jwt", Pattern: `\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){0,2}`},
	}
}

// isMask: nothing is gained by replacing what hides or stands for a secret, and much is lost for whoever
// looks for a mistake in a configuration.
func isMask(_, v []byte) bool {
	switch {
	case len(bytes.Trim(v, "*xX.•-_")) == 0:
		return true
	case bytes.HasPrefix(bytes.TrimPrefix(v, []byte("[")), []byte("REDACTED:")): // done before
		return true
	case isVariable(v), bytes.HasPrefix(v, []byte("%")) && len(v) < 4: // %s
		return true
	}
	words := []string{"null", "none", "nil", "true", "false", "undefined", "empty", "redacted", "REDACTED", "hidden", "masked", "n/a"}
	return slices.ContainsFunc(words, func(w string) bool { return string(v) == w })
}

// isVariable says of a value that it names a variable: $VAR, ${anything} or $(anything). Of those without
// brackets only upper case counts, because passwords begin with "$" too, and hashes of them do.
func isVariable(v []byte) bool {
	name, ok := bytes.CutPrefix(v, []byte("$"))
	if !ok || len(name) == 0 {
		return false
	}
	if last := name[len(name)-1]; name[0] == '{' && last == '}' || name[0] == '(' && last == ')' {
		return true
	}
	for i, c := range name {
		if c != '_' && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// isProse says of a value that it is a mask, or a word behind a colon: "password: required" stays
// readable, "password=letmein" and "password":"letmein" do not.
func isProse(before, v []byte) bool {
	if bytes.HasSuffix(before, []byte(" ")) && bytes.IndexByte(before, ':') >= 0 {
		return isWord(before, v)
	}
	return isMask(before, v)
}

// isWord says of a value that it is a mask, or prose: letters of one case, perhaps with "-" and "_"
// between.
func isWord(before, v []byte) bool {
	if isMask(before, v) {
		return true
	}
	v = bytes.TrimRight(v, ".:!?")
	for i, c := range v {
		upper := c >= 'A' && c <= 'Z'
		if c != '-' && c != '_' && c != '.' && c != '/' && (c < 'a' || c > 'z') && (!upper || i > 0) {
			return false
		}
	}
	return true
}

// isName says of a value that it is a word, a number, or what Kubernetes would take for the name of a
// Secret: components log secret="namespace/name" and count tokens.
func isName(before, v []byte) bool {
	if isWord(before, v) {
		return true
	}
	digits := 0
	for _, c := range v {
		if c >= '0' && c <= '9' || c == '.' {
			digits++
		}
	}
	if digits == len(v) {
		return true
	}
	for part := range bytes.SplitSeq(v, []byte("/")) {
		first, rest, ok := bytes.Cut(part, []byte("-"))
		if !ok && !isWord(nil, part) || ok && (!letters(first) || !label(rest)) {
			return false
		}
	}
	return true
}

func letters(v []byte) bool {
	for _, c := range v {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return len(v) > 0
}

func label(v []byte) bool {
	for _, c := range v {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return len(v) > 0
}
