package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	bucketRule = "3 to 63 lower-case letters, digits, dots and hyphens, with a letter or a digit at both ends"
	nameRule   = "lower-case letters, digits and \"-\", at most 63, beginning and ending with a letter or digit"
)

// checkString is the check that a field's tag names.
func checkString(check, text string) *mistake {
	switch check {
	case "cluster":
		if bundle.CheckCluster(text) != nil {
			m := &mistake{text: fmt.Sprintf("%q is no name for a cluster", text), allowed: "lower-case letters, digits, \"-\" and \".\", at most 63"}
			if name := checkName(text); name != nil {
				m.hint = name.hint
			}
			return m
		}
	case "name":
		return checkName(text)
	case "bucket":
		return checkBucket(text)
	case "prefix":
		if err := sink.CheckKey(text); err != nil {
			m := &mistake{text: fmt.Sprintf("%q is no prefix for keys", text), allowed: "words with a / between them, none beginning with a dot, without / around them"}
			if trimmed := strings.Trim(text, "/"); trimmed != text && sink.CheckKey(trimmed) == nil {
				m.hint = trimmed
			}
			return m
		}
		if len(text) > 512 {
			return &mistake{text: fmt.Sprintf("the prefix has %d bytes", len(text)), allowed: "512 at most, to leave room for the keys"}
		}
	case "endpoint":
		return checkEndpoint(text)
	case "url":
		return checkURL(text)
	case "word":
		if i := strings.IndexAny(text, " /:@?#"); i >= 0 {
			return &mistake{text: fmt.Sprintf("%q is no region", text), allowed: "a word such as eu-west-1", offset: i}
		}
	case "storageClass":
		if !regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`).MatchString(text) {
			known := []string{"STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"}
			return &mistake{text: fmt.Sprintf("%q is no storage class", text), allowed: "such as " + strings.Join(known, ", "), hint: selection.Nearest(strings.ReplaceAll(text, "-", "_"), known)}
		}
	case "listen":
		return checkListen(text)
	case "zone":
		return checkZone(text)
	case "regexp":
		return checkRegexp(text)
	}
	return nil
}

func checkName(text string) *mistake {
	if regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(text) {
		return nil
	}
	m := &mistake{text: fmt.Sprintf("%q is no name", text), allowed: nameRule}
	if better := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(text), "-"), "-"); better != "" && len(better) <= 63 {
		m.hint = better
	}
	return m
}

func checkBucket(text string) *mistake {
	if sink.ValidBucket(text) {
		return nil
	}
	m := &mistake{text: fmt.Sprintf("%q is no name for a bucket", text), allowed: bucketRule}
	name, _, slash := strings.Cut(strings.TrimPrefix(text, "s3://"), "/")
	switch lower := strings.ReplaceAll(strings.ToLower(text), "_", "-"); {
	case slash && checkBucket(name) == nil:
		m.hint = name + ", with the rest as prefix"
	case name != text && checkBucket(name) == nil:
		m.hint = name
	case lower != text && checkBucket(lower) == nil:
		m.hint = lower
	}
	return m
}

func checkEndpoint(text string) *mistake {
	full := text
	if !strings.Contains(text, "://") {
		full = "https://" + text
	}
	u, err := url.Parse(full)
	const allowed = "host[:port], http://host[:port] or https://host[:port]"
	switch {
	case err != nil:
		return &mistake{text: fmt.Sprintf("%q is no endpoint", text), allowed: allowed}
	case u.User != nil:
		return &mistake{text: "credentials stand in the URL", allowed: allowed + "; keys come from files or the environment, see credentials"}
	case u.Scheme != "http" && u.Scheme != "https":
		return &mistake{text: fmt.Sprintf("%q is no endpoint", text), allowed: allowed, hint: nearScheme(u)}
	case u.Host == "" || badPort(u.Port()):
		return &mistake{text: fmt.Sprintf("%q is no endpoint", text), allowed: allowed}
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return &mistake{text: fmt.Sprintf("%q has more than a host", text), allowed: allowed, hint: u.Scheme + "://" + u.Host + ", with bucket and prefix as keys of their own"}
	}
	return nil
}

func nearScheme(u *url.URL) string {
	if near := selection.Nearest(u.Scheme, []string{"https", "http"}); near != "" {
		return near + "://" + u.Host
	}
	return ""
}

func badPort(port string) bool {
	n, err := strconv.Atoi(port)
	return port != "" && (err != nil || n < 1 || n > 65535)
}

func checkURL(text string) *mistake {
	u, err := url.Parse(text)
	const allowed = "a URL such as http://broker-ingress.knative-eventing/shop/default"
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || badPort(u.Port()):
		m := &mistake{text: fmt.Sprintf("%q is no http URL", text), allowed: allowed}
		if err == nil && u.Host != "" {
			m.hint = nearScheme(u)
		}
		return m
	case u.User != nil:
		return &mistake{text: "credentials stand in the URL", allowed: allowed}
	}
	return nil
}

func checkListen(text string) *mistake {
	const allowed = "[host]:port, such as :8080 or 127.0.0.1:8080"
	if n, err := strconv.Atoi(text); err == nil {
		return &mistake{text: fmt.Sprintf("%q is no address", text), allowed: allowed, hint: fmt.Sprintf(":%d", n)}
	}
	host, port, err := net.SplitHostPort(text)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 0 || n > 65535 || strings.ContainsAny(host, "/ @") {
		m := &mistake{text: fmt.Sprintf("%q is no address", text), allowed: allowed}
		if bare := strings.TrimPrefix(text, "http://"); bare != text && checkListen(bare) == nil {
			m.hint = bare
		}
		return m
	}
	return nil
}

// checkZone knows the zones of the machine or, with time/tzdata, of the program.
func checkZone(text string) *mistake {
	if text == "Local" {
		return &mistake{text: "Local is not the same everywhere", allowed: "a zone such as Europe/Berlin or UTC"}
	}
	if _, err := time.LoadLocation(text); err == nil {
		return nil
	}
	some := []string{
		"UTC", "Europe/London", "Europe/Berlin", "Europe/Paris", "Europe/Madrid", "Europe/Rome", "Europe/Vienna", "Europe/Zurich", "Europe/Amsterdam", "Europe/Warsaw",
		"Europe/Stockholm", "Europe/Istanbul", "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Sao_Paulo",
		"America/Toronto", "Asia/Tokyo", "Asia/Shanghai", "Asia/Kolkata", "Asia/Singapore", "Asia/Seoul", "Asia/Dubai", "Australia/Sydney",
	}
	hint := selection.Nearest(text, some)
	for _, zone := range some {
		if _, city, _ := strings.Cut(zone, "/"); hint == "" && strings.EqualFold(strings.ReplaceAll(text, " ", "_"), city) {
			hint = zone
		}
	}
	return &mistake{text: fmt.Sprintf("%q is no time zone", text), allowed: "a zone of the IANA database such as Europe/Berlin or UTC", hint: hint}
}

func checkRegexp(text string) *mistake {
	const allowed = "a regular expression of Go (RE2: no look-around, no back references)"
	re, err := regexp.Compile(text)
	if bad := (*syntax.Error)(nil); errors.As(err, &bad) {
		m := &mistake{text: "no regular expression: " + bad.Code.String(), allowed: allowed, offset: max(0, strings.Index(text, bad.Expr))}
		if bad.Expr != "" {
			m.text += ": " + bad.Expr
		}
		return m
	}
	switch {
	case err != nil:
		return &mistake{text: "no regular expression: " + err.Error(), allowed: allowed}
	case re.MatchString(""):
		return &mistake{text: "the pattern matches the empty text, so everywhere", allowed: "a pattern that matches at least one character"}
	}
	return nil
}
