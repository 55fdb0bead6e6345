package exporter

import (
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
)

// fault is what happens to one connection.
type fault struct {
	name       string
	after      int64         // bytes to the store after which the connection is reset; 0 is never
	answerCut  int64         // bytes from the store after which it is reset; 0 is never
	delay      time.Duration // of each piece
	pieceBytes int           // the largest piece
}

// badNetwork passes TCP connections on to a store, the first ones with a fault each.
type badNetwork struct {
	t      *testing.T
	to     string
	faults []fault

	mu   sync.Mutex
	n    int
	open []net.Conn
	wait sync.WaitGroup
}

// newBadNetwork returns the address that stands in front of a store.
func newBadNetwork(t *testing.T, store string, faults []fault) (n *badNetwork, address string) {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	n = &badNetwork{t: t, to: u.Host, faults: faults}
	n.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.wait.Go(func() { n.pass(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		n.mu.Lock()
		for _, c := range n.open {
			_ = c.Close()
		}
		n.mu.Unlock()
		n.wait.Wait()
	})
	return n, "http://" + l.Addr().String()
}

// met returns how many connections there were.
func (n *badNetwork) met() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.n
}

func (n *badNetwork) pass(client net.Conn) {
	store, err := net.Dial("tcp", n.to) //nolint:noctx // a test's
	if err != nil {
		_ = client.Close()
		return
	}
	n.mu.Lock()
	var f fault
	if n.n < len(n.faults) {
		f = n.faults[n.n]
	}
	n.n++
	n.open = append(n.open, client, store)
	n.mu.Unlock()
	reset := func() {
		_ = client.(*net.TCPConn).SetLinger(0)
		_, _ = client.Close(), store.Close()
	}
	n.wait.Go(func() { f.copy(client, store, f.answerCut); reset() })
	f.copy(store, client, f.after)
	reset()
}

// copy passes on what comes, up to a number of bytes if that is not 0.
func (f fault) copy(to io.Writer, from io.Reader, most int64) {
	if f.pieceBytes == 0 {
		f.pieceBytes = 32 << 10
	}
	piece := make([]byte, f.pieceBytes)
	for sent := int64(0); most == 0 || sent < most; {
		p := piece
		if most > 0 {
			p = piece[:min(int64(len(piece)), most-sent)]
		}
		n, err := from.Read(p)
		if f.delay > 0 {
			<-time.After(f.delay)
		}
		if _, werr := to.Write(p[:n]); werr != nil || err != nil {
			return
		}
		sent += int64(n)
	}
}

// TestFaultNetwork breaks the connections to a store and slows them down. All captures arrive, each once. A store
// that swallows everything is tested in package sink, with a shorter patience.
func TestFaultNetwork(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{
		{name: "reset in the head of a request", after: 100},
		{name: "reset in a body", after: 300 << 10},
		{name: "no answer", answerCut: 1},
		{name: "half an answer", answerCut: 60},
		{name: "slow", delay: 20 * time.Millisecond, pieceBytes: 4 << 10},
		{name: "long way", delay: 200 * time.Millisecond, pieceBytes: 1 << 20},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			server := s3test.New(t)
			network, address := newBadNetwork(t, server.URL, []fault{f, f, f, f})
			bucket, err := s3test.Open(t, address, sink.ObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s := newShipping(t, func(o *Options) { o.Bucket = bucket })
			s.run()
			s.fill(6)
			rec := s.record(6)
			s.e.ship.add(s.commit(rec, large(1<<20)), rec)
			s.drained(60 * time.Second)
			s.check(7)
			once(t, server)
			if network.met() < 2 {
				t.Errorf("there were %d connections", network.met())
			}
		})
	}
}

// TestFaultSlowLine brings a large capture up a line on which it takes longer than it may at first, while small
// ones go up all the time.
func TestFaultSlowLine(t *testing.T) {
	t.Parallel()
	server := s3test.New(t)
	slow := fault{delay: 25 * time.Millisecond, pieceBytes: 32 << 10}
	_, address := newBadNetwork(t, server.URL, slices.Repeat([]fault{slow}, 200))
	bucket, err := s3test.Open(t, address, sink.ObjectOptions{}, sink.Patience{Pace: 3 << 20, Grace: 250 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s := newShipping(t, func(o *Options) { o.Bucket = bucket })
	s.run()
	rec := s.record(9000)
	key := s.commit(rec, large(2<<20))
	s.e.ship.add(key, rec)
	for end := time.Now().Add(2 * time.Minute); server.Objects()[key] == nil; {
		if time.Now().After(end) {
			t.Fatal("the large capture does not arrive")
		}
		s.fill(1)
		<-time.After(200 * time.Millisecond)
	}
	s.drained(2 * time.Minute)
	s.check(s.n + 1)
	once(t, server)
	if s.metric("upload_errors_total") == 0 {
		t.Error("no upload was cut, so the line was not slow")
	}
}
