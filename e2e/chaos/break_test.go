//go:build linux

package chaos

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// A transfer is bulk on its way, and how much of it has passed.
type transfer struct {
	passed atomic.Int64
	done   chan struct{}
	hash   string // to be read once done is closed
	err    error
}

// counted counts what is read, at most at that rate.
type counted struct {
	io.Reader
	n    *atomic.Int64
	rate float64 // bytes a second; 0 for any
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	if c.rate > 0 {
		time.Sleep(time.Duration(float64(n) / c.rate * 1e9))
	}
	return n, err
}

func (x *transfer) begin(do func() (string, error)) *transfer {
	x.done = make(chan struct{})
	go func() {
		defer close(x.done)
		x.hash, x.err = do()
	}()
	return x
}

// download takes size bytes from the service of that name, at so many bytes a
// second; 0 is as fast as can be.
func download(ctx context.Context, v *http.Client, name string, size int64, rate float64) *transfer {
	x := &transfer{}
	return x.begin(func() (string, error) {
		req, _ := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/download/%d", url(name), size), nil)
		res, err := v.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, counted{res.Body, &x.passed, rate})
		if err == nil && (n != size || res.StatusCode != 200) {
			err = fmt.Errorf("%s and %d bytes", res.Status, n)
		}
		return fmt.Sprintf("%x", sum.Sum(nil)), err
	})
}

// upload gives as many to it.
func upload(ctx context.Context, v *http.Client, name string, size int64) *transfer {
	x := &transfer{}
	return x.begin(func() (string, error) {
		req, _ := http.NewRequestWithContext(ctx, "POST", url(name)+"/upload", counted{generate(size), &x.passed, 0})
		req.ContentLength = size
		res, err := v.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != 200 {
			err = fmt.Errorf("%s: %s", res.Status, b)
		}
		return string(b), err
	})
}

// reaches waits until both have passed a part of all bytes. It is an error if
// one of them has ended before that: it could not notice any more what comes.
func reaches(part float64, size int64, both ...*transfer) error {
	late := time.After(10 * time.Minute)
	for _, x := range both {
		for float64(x.passed.Load()) < part*float64(size) {
			select {
			case <-x.done:
				return fmt.Errorf("ended after %d bytes: %w", x.passed.Load(), x.err)
			case <-late:
				return errors.New("not within ten minutes")
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	for _, x := range both {
		if x.passed.Load() == size {
			return errors.New("one was over before the other was here")
		}
	}
	return nil
}

// Bulk each way and a crowd of visitors, while everything happens to the road
// that can: for eight seconds it is silent, its connections are reset, and the
// agent's address becomes another.
func breakTheRoad(t *testing.T, f *finding) {
	bytes := chosen(size, 200e6, 50e6)
	w := newWorld(t, road{delay: 10 * time.Millisecond, rate: 100})
	n, s := w.startNode("--hold-max", "1000"), w.startService("blog")
	a := n.startAgent("blog", s.target)
	n.works(t, "blog")
	want := hashOf(bytes)

	began := time.Now()
	c := n.invite(50, &crowd{names: func(int) string { return "blog" }})
	down := download(t.Context(), n.visitor(false, true), "blog", bytes, 0)
	up := upload(t.Context(), n.visitor(true, true), "blog", bytes)
	for _, at := range []struct {
		part float64
		what func() (healed time.Time)
	}{
		{0.1, func() time.Time {
			cut := w.drop()
			time.Sleep(8 * time.Second)
			healed := w.heal()
			f.say("agent knew of the silence after %v", ms(a.told(cut, "resuming").Time.Sub(cut)))
			return healed
		}},
		{0.4, func() time.Time { return w.reset(w.ed) }},
		{0.6, w.move},
	} {
		if err := reaches(at.part, bytes, down, up); err != nil {
			t.Fatalf("at %.0f %%: %v", 100*at.part, err)
		}
		healed := at.what()
		f.say("back after %v", ms(a.told(healed, "resumed").Time.Sub(healed)))
	}
	for what, x := range map[string]*transfer{"download": down, "upload": up} {
		<-x.done
		if x.err != nil || x.hash != want {
			t.Errorf("%s of %d bytes: %d, %v, hash %s; want %s", what, bytes, x.passed.Load(), x.err, x.hash, want)
		}
	}
	f.say("%d MB each way in %v", bytes/1e6, time.Since(began).Round(100*time.Millisecond))
	visits := c.enough()
	f.say("%d requests, the slowest %v", len(visits), ms(slowest(visits)))
	f.none("failed", failed(t, visits, (*visit).good))
}
