package session

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// A guest is an agent's end of a session that it has begun.
type guest struct {
	w       *world
	number  int // of the session, from 1
	owner   string
	token   string
	welcome *wire.Welcome
	raw     *memnet.Conn // the latest lane
	lane    uint64       // and its number
	conn    *mux.Conn
	control *mux.Stream
	gone    chan struct{} // closed when the agent hears nothing any more
	served  chan struct{} // closed when the node has forgotten the session
	running sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	doomed int64      // since when the session may end
	last   uint32     // request
	asked  map[uint32]question
	has    map[uint32]question // what it was told, and not told otherwise
}

// A question is a bind under way.
type question struct {
	name     string
	call     int64 // 0 if nobody wants to know
	answered chan struct{}
}

// enter is a new session of an agent, whether it has left the old one or not.
func (w *world) enter(old *guest, token string, id byte, rng *rand.Rand) *guest {
	if old != nil {
		old.doom()
	}
	g := &guest{
		w: w, owner: token[:3], token: token, number: int(w.sessions.Add(1)),
		gone: make(chan struct{}), served: make(chan struct{}),
		asked: map[uint32]question{}, has: map[uint32]question{},
	}
	g.raw = w.dial(rng, func() {
		until := w.now() // nothing is left of the session
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.doomed == 0 {
			w.Errorf("session %d ended, and nobody knows why", g.number)
		}
		w.addUntil(g.doomed, until, input{verb: end, stay: stay{session: g.number}}, output{})
		close(g.served)
	})
	wire.Write(g.raw, &wire.Hello{Version: 1, Agent: [16]byte{id}, Token: wire.Secret(token)})
	m, err := wire.Read(g.raw)
	welcome, ok := m.(*wire.Welcome)
	if !ok {
		w.Fatalf("the node said %+v, %v", m, err)
	}
	g.welcome = welcome
	cfg := mux.Config{KeepAlive: 2 * time.Second, Timeout: 3 * time.Second}
	if cfg.Resume = wire.Duration(welcome.Resume, time.Hour); cfg.Resume > 0 {
		cfg.Keep = 1 << 20
	}
	g.conn = mux.Client(g.raw, cfg)
	if g.control, err = g.conn.Open(w.Context()); err != nil {
		w.Fatalf("open: %v", err)
	}
	w.mu.Lock()
	w.present = append(w.present, g)
	w.mu.Unlock()
	g.running.Go(g.hear)
	g.running.Go(g.accept)
	return g
}

func (g *guest) say(m wire.Message) {
	wire.Write(g.control, m) // if that does not work, hear will hear of it
}

// doom notes that something may end the session from now on.
func (g *guest) doom() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.doomed == 0 {
		g.doomed = g.w.now()
	}
}

func (g *guest) left() bool {
	select {
	case <-g.gone:
		return true
	default:
		return false
	}
}

// trouble is what befalls an agent, and what it makes of it: the session it has
// afterwards, or nil if it has to begin one. That lanes are lost need not be the
// end of the session, but may be.
func (g *guest) trouble(id byte, rng *rand.Rand) *guest {
	w := g.w
	wait := func() { time.Sleep(time.Duration(rng.IntN(1200)) * time.Millisecond) }
	g.doom()
	switch rng.IntN(9) {
	case 0:
		g.raw.Break()
		wait()
		return g.rejoin(rng)
	case 1:
		g.raw.Silence()
		wait()
		return g.rejoin(rng)
	case 2: // make before break
		old := g.raw
		next := g.rejoin(rng)
		old.Break()
		return next
	case 3:
		g.raw.Break()
		return w.enter(g, g.token, id, rng)
	case 4:
		g.raw.Silence()
		return w.enter(g, g.token, id, rng)
	case 5: // the goodbye may be late
		g.control.CloseWrite()
		return w.enter(g, g.token, id, rng)
	case 6:
		w.Kick(hexID(g.welcome.Session))
		return nil
	case 7: // it has forgotten the old one, which lives on
		return w.enter(g, g.token, id, rng)
	default:
		g.overheard(rng)
		return g
	}
}

// join asks for a lane with that number, and reports whether it was given.
func (g *guest) join(rng *rand.Rand, number uint64, token string) (*memnet.Conn, bool) {
	c := g.w.dial(rng, func() {})
	m := &wire.Join{Version: 1, Session: g.welcome.Session, Lane: number, Token: wire.Secret(token)}
	m.Proof = wire.Proof(g.welcome.Secret, m.Session, m.Lane)
	wire.Write(c, m)
	answer, err := wire.Read(c)
	if _, ok := answer.(*wire.Joined); ok {
		return c, true
	}
	if no, ok := answer.(*wire.Refused); !ok || no.Code != wire.SessionUnknown {
		g.w.Errorf("join %d of session %d: %+v, %v", number, g.number, answer, err)
	}
	c.Close()
	return nil, false
}

// rejoin goes on with the session over a new lane, or learns that it cannot.
func (g *guest) rejoin(rng *rand.Rand) *guest {
	g.lane++
	c, ok := g.join(rng, g.lane, g.token)
	if !ok {
		g.conn.Close()
		return nil
	}
	if _, err := g.conn.Join(c, g.lane); err != nil {
		return nil // our own window has passed
	}
	g.raw = c
	return g
}

// overheard is somebody who says what was said before, or has another token.
func (g *guest) overheard(rng *rand.Rand) {
	if _, ok := g.join(rng, g.lane, g.token); ok {
		g.w.Errorf("lane %d of session %d was given twice", g.lane, g.number)
	}
	if _, ok := g.join(rng, g.lane+1, "bob-2"); ok {
		g.w.Errorf("session %d was joined by somebody else", g.number)
	}
}

// holds is what the agent believes to have: requests by name.
func (g *guest) holds() map[string]uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := map[string]uint32{}
	for request, q := range g.has {
		names[q.name] = request
	}
	return names
}

// bind asks for a name, unless that was done, and waits for the answer.
func (g *guest) bind(name string, patience time.Duration) {
	q := question{name: name, call: g.w.now(), answered: make(chan struct{})}
	g.mu.Lock()
	for _, other := range g.asked {
		if other.name == name {
			g.mu.Unlock()
			return
		}
	}
	g.last++
	request := g.last
	g.asked[request] = q
	g.mu.Unlock()
	g.say(&wire.Bind{Request: request, Name: name})
	select {
	case <-q.answered:
	case <-g.gone:
	case <-time.After(patience):
	}
}

// bound notes what has come of a bind by then.
func (g *guest) bound(q question, request uint32, until int64, out output) {
	if q.call == 0 {
		return // it was none
	}
	in := input{verb: claim, name: q.name, stay: stay{g.number, request}, owner: g.owner}
	g.w.addUntil(q.call, until, in, out)
	if !out.refused {
		in.verb = bind
		g.w.addUntil(q.call, until, in, out)
	}
}

// unbind lets go of a name. That is not answered, but the next question is.
func (g *guest) unbind(name string, request uint32) {
	call := g.w.now()
	g.mu.Lock()
	delete(g.has, request)
	g.last++
	next, q := g.last, question{name: "not.a.name", answered: make(chan struct{})}
	g.asked[next] = q
	g.mu.Unlock()
	g.say(&wire.Unbind{Request: request})
	g.say(&wire.Bind{Request: next, Name: q.name})
	until := int64(never)
	select {
	case <-q.answered:
		until = g.w.now()
	case <-g.gone:
	}
	g.w.addUntil(call, until, input{verb: unbind, name: name, stay: stay{g.number, request}}, output{})
}

// hear hears what the node says, until it says no more.
func (g *guest) hear() {
	defer close(g.gone)
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for request, q := range g.asked {
			g.bound(q, request, never, output{unknown: true})
		}
	}()
	for {
		m, err := wire.Read(g.control)
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *wire.Bound:
			g.answer(m.Request, output{epoch: m.Epoch})
		case *wire.Refused:
			if m.Request == 0 {
				return
			}
			if m.Code != wire.NameTaken && m.Code != wire.NameInvalid {
				g.w.Errorf("session %d was refused: %+v", g.number, m)
			}
			g.answer(m.Request, output{refused: true})
		case *wire.Unbound:
			g.lost(m.Request)
		}
	}
}

func (g *guest) answer(request uint32, out output) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.asked[request]
	delete(g.asked, request)
	g.bound(q, request, g.w.now(), out)
	if !out.refused {
		g.has[request] = q
	}
	close(q.answered)
}

func (g *guest) lost(request uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.asked[request]; ok {
		g.w.Errorf("session %d heard that it lost what it was not told to have: %d", g.number, request)
	}
	if q, ok := g.has[request]; ok {
		delete(g.has, request)
		g.w.add(q.call, input{verb: lose, name: q.name, stay: stay{g.number, request}}, output{})
	}
}

// accept tells visitors who answers.
func (g *guest) accept() {
	for {
		stream, err := g.conn.Accept(context.Background())
		if err != nil {
			return
		}
		m, err := wire.Read(stream)
		if v, ok := m.(*wire.Visit); ok && err == nil {
			fmt.Fprintf(stream, "%d %d\n", g.number, v.Request)
		}
		stream.Close()
	}
}
