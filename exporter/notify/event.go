package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Type is the type of the event that tells of an archived run. Another meaning gets another type.
const Type = "dev.kubelogexporter.run.archived.v1"

// contentType is that of structured mode (CloudEvents HTTP protocol binding 1.0, section 3.2).
const contentType = "application/cloudevents+json; charset=utf-8"

// Run is what is told of.
type Run struct {
	Key    string    // of the record
	Record []byte    // as stored: JSON
	Time   time.Time // when it was archived
}

// encode makes the event's body.
func (o *Options) encode(r Run) ([]byte, error) {
	if r.Key == "" || !json.Valid(r.Record) {
		return nil, fmt.Errorf("make event of record %q: it has no key, or is not JSON", r.Key)
	}
	sum := sha256.Sum256([]byte(r.Key))
	event := map[string]any{
		"specversion": "1.0",
		"type":        Type,
		"source":      o.Source,
		"id":          hex.EncodeToString(sum[:16]),
		"subject":     r.Key,
		"time":        r.Time.UTC().Format(time.RFC3339Nano),
	}
	if o.Archive != "" {
		event["dataref"] = strings.TrimSuffix(o.Archive, "/") + "/" + (&url.URL{Path: r.Key}).EscapedPath()
	}
	if len(r.Record) <= o.MaxData {
		event["datacontenttype"] = "application/json"
		event["data"] = json.RawMessage(r.Record)
	}
	for name, value := range o.Extensions {
		event[name] = value
	}
	b, err := json.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("make event of record %q: %w", r.Key, err)
	}
	return b, nil
}

// CheckExtension says what is wrong with the name of an extension. Names are of lower-case letters and digits
// (CloudEvents 1.0, section 3), and those of the specification are not to be replaced.
func CheckExtension(name string) error {
	switch name {
	case "specversion", "type", "source", "id", "subject", "time", "datacontenttype", "dataschema", "dataref", "data":
		return fmt.Errorf("extension %q is set by the exporter", name)
	case "":
		return errors.New("an extension has no name")
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("extension %q is not of lower-case letters and digits", name)
		}
	}
	return nil
}

// overrides is what Knative's SinkBinding puts into K_CE_OVERRIDES.
type overrides struct {
	Extensions map[string]string `json:"extensions"`
}

// FromEnv takes the receiver from K_SINK and extensions from K_CE_OVERRIDES, as Knative's SinkBinding
// sets them. What the options have already stays.
func (o Options) FromEnv(getenv func(string) string) (Options, error) {
	if o.Sink == "" {
		o.Sink = getenv("K_SINK")
	}
	text := getenv("K_CE_OVERRIDES")
	if text == "" {
		return o, nil
	}
	var more overrides
	if err := json.Unmarshal([]byte(text), &more); err != nil {
		return o, fmt.Errorf("read K_CE_OVERRIDES: %w", err)
	}
	all := more.Extensions
	for name, value := range o.Extensions {
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = value
	}
	o.Extensions = all
	return o, nil
}
