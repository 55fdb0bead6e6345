package config

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/kubelogexporter/kubelogexporter/exporter/notify"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

// at returns where a path stands in the file, or the nearest section around it that does.
func (d *decoder) at(path string) source {
	for path != "" {
		switch o := d.origins[path]; o.Kind { // before the file, which may have another value there
		case fromFlag:
			return source{place: o.String()}
		case fromEnvironment:
			return source{place: o.String()}
		case fromDefault, fromFile:
		}
		if n := d.nodes[path]; n != nil {
			return source{node: n}
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return source{}
}

func (d *decoder) warn(path string, m mistake) {
	e := d.note(d.at(path), path, m)
	d.errs = slices.DeleteFunc(d.errs, func(other *Error) bool { return other == e })
	e.Warning = true
	d.warned = append(d.warned, e)
}

// sink settles where the archive is: the flag's URL stands for two keys of the file.
func (d *decoder) sink(c *Config) {
	text, from, place := d.override("sink")
	if place == "" {
		switch {
		case c.Sink.S3 != nil && c.Sink.Dir != "":
			d.fail(d.at("sink.dir"), "sink", mistake{text: "there are two sinks", allowed: "either dir or s3"})
		case c.Sink.S3 == nil && c.Sink.Dir == "" && len(d.errs) == 0:
			c.Sink.Dir = "./kubelogs"
			d.origins["sink.dir"] = origin{Kind: fromDefault}
		}
		return
	}
	at := source{place: place}
	scheme, rest, ok := strings.Cut(text, ":")
	switch {
	case ok && scheme == "s3":
		u, err := url.Parse(text)
		if err != nil || u.User != nil {
			d.fail(at, "sink", mistake{text: "this is no s3://BUCKET/PREFIX", allowed: "s3://BUCKET/PREFIX, without credentials"})
			return
		}
		if c.Sink.S3 == nil {
			c.Sink.S3 = &S3{}
			d.implied(reflect.ValueOf(c.Sink.S3).Elem(), "sink.s3")
		}
		c.Sink.Dir, c.Sink.S3.Bucket, c.Sink.S3.Prefix = "", u.Host, strings.Trim(u.Path, "/")
		d.origins["sink.s3.bucket"], d.origins["sink.s3.prefix"] = from, from
		for check, value := range map[string]string{"bucket": u.Host, "prefix": c.Sink.S3.Prefix} {
			if m := checkString(check, value); m != nil && (value != "" || check == "bucket") {
				d.fail(at, "sink", *m)
			}
		}
	case ok && scheme == "dir" && rest != "":
		c.Sink = Sink{Dir: rest}
		d.origins["sink.dir"] = from
	case ok && scheme == "file" && strings.HasPrefix(rest, "///"):
		c.Sink = Sink{Dir: rest[2:]}
		d.origins["sink.dir"] = from
	case !ok || strings.ContainsAny(scheme, "/."):
		c.Sink = Sink{Dir: text}
		d.origins["sink.dir"] = from
	default:
		d.fail(at, "sink", mistake{text: fmt.Sprintf("%q names no sink", text), allowed: "dir:PATH or s3://BUCKET/PREFIX"})
	}
}

// check looks for what a single value does not show.
func (d *decoder) check(c *Config) {
	if s := c.Sink.S3; s != nil {
		d.s3(s)
	}
	if k := c.Kubelets; k.CAFile != "" && k.InsecureSkipVerify {
		d.fail(d.at("kubelets.insecureSkipVerify"), "kubelets.insecureSkipVerify", mistake{text: "the kubelets' certificates are not to be checked, yet caFile says with what", allowed: "either of them"})
	}
	if c.HTTP.Triggers != nil && c.HTTP.Listen == "" && !d.failed["http.listen"] {
		d.fail(d.at("http.triggers"), "http.triggers", mistake{text: "requests cannot come without http.listen", allowed: "http.listen, such as :8080"})
	}
	if e := c.Notifications.CloudEvents; e != nil {
		for name := range e.Overrides.Extensions {
			path := "notifications.cloudEvents.overrides.extensions." + name
			if !regexp.MustCompile(`^[a-z0-9]{1,20}$`).MatchString(name) {
				d.fail(d.at(path), path, mistake{text: fmt.Sprintf("%q is no name for an extension", name), allowed: "1 to 20 lower-case letters and digits"})
			} else if err := notify.CheckExtension(name); err != nil {
				d.fail(d.at(path), path, mistake{text: err.Error(), allowed: "a name that CloudEvents itself does not use"})
			}
		}
	}
	d.exports(c)
}

func (d *decoder) s3(s *S3) {
	files := s.AccessKeyIDFile != "" || s.SecretAccessKeyFile != ""
	switch {
	case s.Credentials == "files" && (s.AccessKeyIDFile == "" || s.SecretAccessKeyFile == ""), files && (s.AccessKeyIDFile == "") != (s.SecretAccessKeyFile == ""):
		d.fail(d.at("sink.s3.credentials"), "sink.s3", mistake{text: "credentials from files need both files", allowed: "accessKeyIDFile and secretAccessKeyFile"})
	case files && s.Credentials != "files" && s.Credentials != "auto" && s.Credentials != "":
		d.fail(d.at("sink.s3.credentials"), "sink.s3.credentials", mistake{text: fmt.Sprintf("files with keys are named, yet credentials is %s", s.Credentials), hint: "files"})
	}
	if s.SSE != nil && s.SSE.KMSKeyID != "" && s.SSE.Type == "s3" {
		d.fail(d.at("sink.s3.sse.kmsKeyID"), "sink.s3.sse.kmsKeyID", mistake{text: "a KMS key is named, but the type is s3", hint: "type: kms"})
	}
	if s.StorageClass == "GLACIER" || s.StorageClass == "DEEP_ARCHIVE" {
		d.warn("sink.s3.storageClass", mistake{text: "objects of this class must be restored, for hours, before ls and logs can read them", hint: "GLACIER_IR"})
	}
	if len(s.Tags) > 10 {
		d.fail(d.at("sink.s3.tags"), "sink.s3.tags", mistake{text: fmt.Sprintf("there are %d tags", len(s.Tags)), allowed: "10 at most"})
	}
	for key, value := range s.Tags {
		path := "sink.s3.tags." + key
		chars := regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
		if key == "" || len([]rune(key)) > 128 || len([]rune(value)) > 256 || !chars.MatchString(key) || !chars.MatchString(value) {
			d.fail(d.at(path), path, mistake{text: fmt.Sprintf("%q: %q is no tag", key, value), allowed: "a key of 1 to 128 and a value of up to 256 letters, digits, spaces and _ . : / = + - @"})
		}
	}
}

func (d *decoder) exports(c *Config) {
	if len(c.Exports) > maxExports {
		d.fail(d.at("exports"), "exports", mistake{text: fmt.Sprintf("there are %d exports", len(c.Exports)), allowed: fmt.Sprintf("%d at most", maxExports)})
		return
	}
	names := make(map[string]int)
	for i := range c.Exports {
		e, path := &c.Exports[i], fmt.Sprintf("exports[%d]", i)
		if before, ok := names[e.Name]; ok && e.Name != "" {
			d.fail(d.at(path+".name"), path+".name", mistake{text: fmt.Sprintf("exports[%d] has the name %s already", before, e.Name), allowed: "each name once"})
		} else {
			names[e.Name] = i
		}
		d.selection(e, path+".selection")
		d.schedule(e, path)
		d.redaction(e.Redact, path+".redact")
	}
	for i := range c.Exports {
		for j := range i {
			first, second := c.Exports[j].Compiled, c.Exports[i].Compiled
			if first == nil || second == nil || !first.Covers(second) || c.Exports[j].WatchFor > 0 { // what ends outside of windows is for those behind
				continue
			}
			what := "its selection is no wider than that of"
			if first.Everything() {
				what = "everything is taken by"
			}
			d.warn(fmt.Sprintf("exports[%d].name", i), mistake{
				text: fmt.Sprintf("no run can ever reach export %s: %s %s before it", c.Exports[i].Name, what, c.Exports[j].Name), allowed: "the narrower one first",
			})
			break
		}
	}
}

func (d *decoder) selection(e *Export, path string) {
	var problems []*selection.Problem
	e.Compiled, problems = selection.Compile(e.Selection.Spec())
	for _, p := range problems {
		at := join(path, p.Field)
		if d.nodes[fmt.Sprintf("%s[%d]", at, p.Index)] != nil {
			at = fmt.Sprintf("%s[%d]", at, p.Index)
		}
		if d.failed[at] {
			continue // it was no text, or none of an enum's
		}
		m := mistake{text: p.Text, allowed: p.Allowed, hint: p.Hint, offset: p.Offset}
		e := d.note(d.at(at), at, m)
		if p.Field == "expression" {
			e.width = max(1, p.Length)
		}
	}
}

func (d *decoder) schedule(e *Export, path string) {
	if e.Schedule == nil {
		if e.WatchFor != 0 {
			d.fail(d.at(path+".watchFor"), path+".watchFor", mistake{text: "a window needs a schedule that opens it", allowed: "schedule: {cron: …} beside it, or no watchFor, to watch always"})
		}
		return
	}
	if e.WatchFor > 0 && e.Capture == "live" {
		d.fail(d.at(path+".capture"), path+".capture", mistake{text: "a log that is followed from its container's start on cannot be limited to windows", allowed: "final, or no watchFor"})
	}
	s, path := e.Schedule, path+".schedule"
	if s.Cron == "" || checkZone(s.TimeZone) != nil {
		return // told before
	}
	if m := checkCron(s.Cron); m != nil {
		d.fail(d.at(path+".cron"), path+".cron", *m)
		return
	}
	if d.o.CheckSchedule == nil {
		return
	}
	for _, err := range each(d.o.CheckSchedule(s, e.WatchFor)) {
		key := "cron"
		if word, _, _ := strings.Cut(err.Error(), " "); slices.Contains(keysOf(fieldsOf(reflect.TypeFor[Schedule]())), word) {
			key = word
		}
		d.fail(d.at(path+"."+key), path+"."+key, mistake{text: err.Error()})
	}
}

// checkCron finds what can be told of a cron line by its form.
func checkCron(line string) *mistake {
	const allowed = "minute, hour, day of month, month and day of week, such as \"0 3 * * *\", or @hourly, @daily, @weekly, @monthly, @yearly, @every 6h"
	known := []string{"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
	fields := strings.Fields(line)
	switch {
	case strings.Contains(line, "TZ="):
		return &mistake{text: fmt.Sprintf("%q holds a time zone", line), allowed: allowed + "; the zone is the key timeZone"}
	case len(fields) == 0:
		return &mistake{text: "the line is empty", allowed: allowed}
	case fields[0] == "@every" && len(fields) == 2:
		return nil
	case fields[0] == "@reboot":
		return &mistake{text: "@reboot has no meaning here", allowed: allowed}
	case strings.HasPrefix(line, "@"):
		if !slices.Contains(known, line) {
			return &mistake{text: fmt.Sprintf("%q is no schedule", line), allowed: allowed, hint: selection.Nearest(fields[0], known)}
		}
		return nil
	case len(fields) == 6:
		return &mistake{text: fmt.Sprintf("%q has 6 fields; seconds are not supported", line), allowed: allowed, hint: strings.Join(fields[1:], " ")}
	case len(fields) != 5:
		return &mistake{text: fmt.Sprintf("%q has %d fields instead of 5", line, len(fields)), allowed: allowed}
	}
	return nil
}

func (d *decoder) redaction(r *Redaction, path string) {
	if r == nil {
		return
	}
	count := len(d.errs)
	for i, name := range r.Builtin.Names {
		if at := fmt.Sprintf("%s.builtin[%d]", path, i); d.o.Redactions != nil && !slices.Contains(d.o.Redactions, name) {
			d.fail(d.at(at), at, mistake{text: fmt.Sprintf("there is no built-in rule %q", name), allowed: strings.Join(d.o.Redactions, ", "), hint: selection.Nearest(name, d.o.Redactions)})
		}
	}
	seen := make(map[string]bool)
	for i, rule := range r.Rules {
		at := fmt.Sprintf("%s.rules[%d].name", path, i)
		switch {
		case seen[rule.Name] && rule.Name != "":
			d.failf(d.at(at), at, "there is a rule %s already", rule.Name)
		case slices.Contains(d.o.Redactions, rule.Name):
			d.failf(d.at(at), at, "a built-in rule has the name %s", rule.Name)
		}
		seen[rule.Name] = true
	}
	if d.o.CheckRedaction == nil || len(d.errs) > count {
		return
	}
	errs := each(d.o.CheckRedaction(r))
	if len(errs) == 0 {
		return
	}
	count = len(d.errs)
	for i, rule := range r.Rules[:min(len(r.Rules), maxErrors)] { // one after the other, because no error says whose it is
		alone := &Redaction{Rules: []Rule{rule}}
		at := fmt.Sprintf("%s.rules[%d].pattern", path, i)
		for _, err := range each(d.o.CheckRedaction(alone)) {
			if alone.Rules[0].Replace = ""; d.o.CheckRedaction(alone) == nil {
				at = fmt.Sprintf("%s.rules[%d].replace", path, i)
			}
			d.fail(d.at(at), at, mistake{text: err.Error()})
		}
	}
	if len(d.errs) == count { // no rule is wrong, but all of them together
		for _, err := range errs {
			d.fail(d.at(path), path, mistake{text: err.Error()})
		}
	}
}

// each takes a joined error apart, also one that is joined of such.
func each(err error) (all []error) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, err := range joined.Unwrap() {
			all = append(all, each(err)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
