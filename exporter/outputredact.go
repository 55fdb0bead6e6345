package exporter

import (
	"slices"

	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// What an output knows of the secrets that are taken out on the way to it.

// redact makes the text that is written from here on go through a redactor; nil is none.
func (o *output) redact(r *redact.Redactor) {
	if r != nil {
		o.sieve = newSieve(r, writerFunc(o.put))
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// redaction is what the record says of what was written. The lock is held.
func (o *output) redaction() *bundle.Redaction {
	parts := slices.Clone(o.parts)
	switch {
	case o.sieve != nil && (o.own || len(parts) == 0):
		parts = append(parts, o.sieve.redaction())
	case o.own:
		parts = append(parts, nil)
	}
	return joinRedactions(parts)
}

// unsure says whether it is not known whether the text goes on within a private key.
func (o *output) unsure() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sieve != nil && o.sieve.unsure
}

// inKey says whether the text so far may end within a private key.
func (o *output) inKey() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sieve != nil && o.sieve.w.InKey()
}

// openLine returns the unterminated line that waits in the redactor for its end, and whether that is all of it.
func (o *output) openLine() (line []byte, whole bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sieve == nil {
		return nil, true
	}
	return o.sieve.w.Open()
}

// recalled makes the text go on behind the lines that a redactor has seen.
func (o *output) recalled(by *redact.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sieve.w.GoOnAfter(by)
	o.sieve.unsure = false
}

// copy calls a function that writes text which was redacted before, by rules of these names, and enters what
// that shows. If it was not known then what came before it, it goes through the redactor again.
func (o *output) copy(rules []string, again bool, write func() error) error {
	o.mu.Lock()
	count := redact.NewRecount(rules, nil)
	if o.sieve != nil {
		count = redact.NewRecount(rules, o.sieve.redactor)
		if o.sieve.w.InKey() {
			count.MayBeInKey()
		}
	}
	o.recount, o.again = count, again
	o.mu.Unlock()
	err := write()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.recount, o.again = nil, false
	part := &bundle.Redaction{Rules: rules, Matches: count.Counts()}
	o.parts = append(o.parts, part)
	if o.sieve != nil {
		o.sieve.goOn(part)
		o.sieve.unsure = o.sieve.unsure || o.sieve.w.InKey() // its END may be in there
	}
	return err
}

// newMatches returns how often secrets were replaced since it was asked last, by rule.
func (o *output) newMatches() map[string]int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sieve == nil {
		return nil
	}
	return o.sieve.fresh()
}

// redacts says whether secrets are taken out of what is written here.
func (o *output) redacts() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sieve != nil
}
