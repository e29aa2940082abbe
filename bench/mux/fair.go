package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/bench/internal/report"
)

// pace is how often the exchange beside bulk is repeated.
const pace = 100 * time.Millisecond

// What the first byte of a stream asks the server for.
const (
	wantBulk  = 'b'
	wantReply = 'r'
)

// fair prints how long an exchange takes beside bulk on the same session.
func (b *bench) fair(ctx context.Context) error {
	over := func(libraries []library) func(context.Context, link) error {
		return func(ctx context.Context, k link) error { return b.fairOver(ctx, k, libraries) }
	}
	withLanes := slices.Insert(slices.Clone(muxes), 1, lanes)
	if err := over(withLanes)(ctx, narrow); err != nil {
		return err
	}
	tuned := slices.Insert(withLanes, 1, longQueue)
	for _, loss := range []float64{0, 0.01} {
		if err := b.overWAN(ctx, loss, over(tuned)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) fairOver(ctx context.Context, k link, libraries []library) error {
	counts := []int{0, 1, 8}
	if b.quick {
		counts = []int{8} // the others are a part of that
	}
	for _, streams := range counts {
		title := fmt.Sprintf("%s over %s", map[int]string{0: "no bulk", 1: "one bulk stream", 8: "8 bulk streams"}[streams], k.name)
		results, err := inTurn(ctx, b, "fair: "+title, b.farRounds, libraries, func(ctx context.Context, l library) (fairness, error) {
			return beside(ctx, l, k, streams, b.fairTime)
		})
		if err != nil {
			return err
		}
		b.printFair("Fair: an exchange beside "+title, streams, results)
	}
	return nil
}

func (b *bench) printFair(title string, streams int, results []outcome[fairness]) {
	head := []string{"", "p50 ms", "p99 ms", "own connection p50 ms", "p99 ms"}
	if streams > 0 {
		head = append(head, "bulk MB/s")
	}
	if streams > 1 {
		head = append(head, "smallest and largest share")
	}
	t := report.NewTable(title, "256 B up and 1,000 B down, ten times a second, while the bulk goes down, and the same on another TLS connection meanwhile. "+
		"In process, that has a road of its own.", head...)
	for _, r := range results {
		var same, own []time.Duration
		for _, s := range r.samples {
			same, own = append(same, s.same...), append(own, s.own...)
		}
		cells := []string{r.library.name,
			percentile(same, 0.50, r.excuse), percentile(same, 0.99, r.excuse),
			percentile(own, 0.50, r.excuse), percentile(own, 0.99, r.excuse)}
		if streams > 0 {
			cells = append(cells, r.median("%.1f", func(s fairness) float64 { return s.rate / 1e6 }))
		}
		if streams > 1 {
			cells = append(cells, r.median("%.2f", func(s fairness) float64 { return s.least })+" – "+
				r.median("%.2f", func(s fairness) float64 { return s.most }))
		}
		t.Add(cells...)
	}
	t.Print(b.out)
}

// percentile prints, in milliseconds, the time within which that part of all
// ended.
func percentile(all []time.Duration, part float64, excuse func() string) string {
	if len(all) == 0 {
		return excuse()
	}
	slices.Sort(all)
	at := all[min(len(all)-1, int(part*float64(len(all))))]
	return fmt.Sprintf("%.1f", float64(at.Microseconds())/1e3)
}

// fairness is what came of one session with bulk and an exchange.
type fairness struct {
	same, own   []time.Duration // of exchanges: on the session, on their own connection
	rate        float64         // of all bulk streams, bytes per second
	least, most float64         // shares, the mean of which is 1
}

// beside measures an exchange beside bulk streams, once they have got going.
func beside(ctx context.Context, l library, k link, streams int, d time.Duration) (f fairness, err error) {
	p, err := l.over(k)
	if err != nil {
		return f, err
	}
	own, err := bareTLS.over(k)
	if err != nil {
		p.close()
		return f, err
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { serve(own.server, func(st stream) { grant(st, stop) }) })
	wg.Go(func() { serve(p.server, func(st stream) { grant(st, stop) }) })
	counts := make([]atomic.Int64, streams)
	failed := make(chan error, streams+2)
	for i := range counts {
		wg.Go(func() { failed <- download(p.client, &counts[i]) })
	}
	var onSession, onOwn diary
	wg.Go(func() { failed <- onSession.keep(p.client.open, stop) })
	wg.Go(func() { failed <- onOwn.keep(own.client.open, stop) })

	err = wait(ctx, d/5)
	onSession.from(time.Now())
	onOwn.from(time.Now())
	before, began := read(counts), time.Now()
	if err == nil {
		select {
		case err = <-failed:
		case <-time.After(d):
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err == nil && streams > 0 {
		err = moves(ctx, func() int64 { return sum(read(counts)) - sum(before) })
	}
	took, after := time.Since(began).Seconds(), read(counts)
	f.same, f.own = onSession.times(), onOwn.times()

	close(stop)
	p.close()
	own.close()
	if !waitFor(&wg, patience) && err == nil {
		err = errStalled
	}
	f.rate, f.least, f.most = shares(before, after, took)
	return f, err
}

// grant gives the client what it wants on a stream.
func grant(st stream, stop <-chan struct{}) {
	want := make([]byte, 1)
	if _, err := io.ReadFull(st, want); err != nil {
		return
	}
	if want[0] == wantBulk {
		pour(st, stop)
		return
	}
	answer(st, make([]byte, 256), make([]byte, 1000))
}

// download asks for bulk and counts it, until the session ends.
func download(s session, count *atomic.Int64) error {
	st, err := s.open()
	if err != nil {
		return err
	}
	defer st.Close()
	if _, err := st.Write([]byte{wantBulk}); err != nil {
		return err
	}
	buf := make([]byte, block)
	for {
		n, err := st.Read(buf)
		count.Add(int64(n))
		if err != nil {
			return errors.Join(errors.New("bulk ended"), err)
		}
	}
}

// A diary has the times of exchanges that are made at a pace.
type diary struct {
	mu    sync.Mutex // guards all that follows
	since time.Time  // exchanges before do not count; zero while none does
	began time.Time  // of the one under way; zero when there is none
	took  []time.Duration
}

// keep makes exchanges on a stream of open until stop is closed or they fail.
func (y *diary) keep(open func() (stream, error), stop <-chan struct{}) error {
	st, err := open()
	if err != nil {
		return err
	}
	defer st.Close()
	if _, err := st.Write([]byte{wantReply}); err != nil {
		return err
	}
	question, reply := make([]byte, 256), make([]byte, 1000)
	for {
		began := y.begin()
		if err := ask(st, question, reply); err != nil {
			return err
		}
		y.end(began)
		select {
		case <-stop:
			return nil
		case <-time.After(time.Until(began.Add(pace))):
		}
	}
}

func (y *diary) begin() time.Time {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.began = time.Now()
	return y.began
}

func (y *diary) end(began time.Time) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.began = time.Time{}
	if !y.since.IsZero() {
		y.took = append(y.took, time.Since(began))
	}
}

// from makes exchanges count that end after t.
func (y *diary) from(t time.Time) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.since = t
}

// times returns those of all exchanges. One that has not ended counts with the
// time that it has had so far, if it is the only one or slower than the pace:
// a stall must not look like nothing.
func (y *diary) times() []time.Duration {
	y.mu.Lock()
	defer y.mu.Unlock()
	all := slices.Clone(y.took)
	if y.began.IsZero() {
		return all
	}
	if soFar := time.Since(y.began); soFar > pace || len(all) == 0 {
		all = append(all, soFar)
	}
	return all
}

func read(counts []atomic.Int64) []int64 {
	var all []int64
	for i := range counts {
		all = append(all, counts[i].Load())
	}
	return all
}

func sum(counts []int64) (all int64) {
	for _, n := range counts {
		all += n
	}
	return all
}

// shares returns the rate of all counts together, and the smallest and the
// largest in relation to their mean.
func shares(before, after []int64, took float64) (rate, least, most float64) {
	var each []float64
	for i := range after {
		n := float64(after[i] - before[i])
		each = append(each, n)
		rate += n
	}
	if rate == 0 {
		return 0, 0, 0
	}
	mean := rate / float64(len(each))
	return rate / took, slices.Min(each) / mean, slices.Max(each) / mean
}

// waitFor waits for wg and reports whether that took no longer than d.
func waitFor(wg *sync.WaitGroup, d time.Duration) bool {
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return true
	case <-time.After(d):
		return false
	}
}
