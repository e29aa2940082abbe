package session

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A register is what a name ought to be, to somebody who sees one thing happen
// at a time. It is a value, and its zero value a name that nobody has claimed.
type register struct {
	owner string
	stay  stay   // who holds the name; its zero value is nobody
	epoch uint64 // of the stay; 0 as long as nobody was told
	last  uint64 // the highest epoch so far
	ended uint64 // bits: sessions that have ended
}

// A stay is a session of the history, counted from 1, and its request.
type stay struct {
	session int
	request uint32
}

type verb string

const (
	claim   verb = "claim" // the first half of a bind, which may be all of it
	bind    verb = "bind"
	unbind  verb = "unbind"
	end     verb = "end"     // of a session, by whatever cause
	lookup  verb = "lookup"  // by a visitor: the epoch
	open    verb = "open"    // by a visitor: whose stream it is
	lose    verb = "lose"    // the agent hears that it has the name no more
	believe verb = "believe" // the agent has heard nothing of the kind, and all is quiet
)

// An input is what somebody does; unused fields are zero.
type input struct {
	verb  verb
	name  string
	stay  stay   // of the agent
	owner string // of the agent
	epoch uint64 // of the stay that the visitor wants; 0 is whichever
}

// An output is what comes of it.
type output struct {
	unknown bool   // nobody was left to hear the answer
	refused bool   // the name is another owner's
	epoch   uint64 // 0 is nobody
	stay    stay   // who answers
}

// step reports whether in may have had out, and what the name is afterwards.
func (r register) step(in input, out output) (bool, register) {
	ended := r.ended&(1<<in.stay.session) != 0
	switch in.verb {
	case claim:
		r.owner = cmp.Or(r.owner, in.owner)
		return out.unknown || out.refused == (r.owner != in.owner), r
	case bind:
		switch {
		case out.unknown && (ended || r.owner != in.owner): // then it did nothing
			return true, r
		case ended || r.owner != in.owner || !out.unknown && out.epoch <= r.last:
			return false, r
		}
		return true, register{in.owner, in.stay, out.epoch, max(r.last, out.epoch), r.ended}
	case unbind:
		if r.stay == in.stay {
			r.stay, r.epoch = stay{}, 0
		}
		return true, r
	case end:
		r.ended |= 1 << in.stay.session
		if r.stay.session == in.stay.session {
			r.stay, r.epoch = stay{}, 0
		}
		return true, r
	case lookup:
		if out.epoch == 0 {
			return r.stay == stay{}, r
		}
		return r.has(out.epoch)
	case open:
		if r.stay != out.stay || in.epoch == 0 {
			return r.stay == out.stay, r
		}
		return r.has(in.epoch)
	case lose:
		return r.stay != in.stay, r
	case believe:
		return r.stay == in.stay, r
	}
	panic("BUG: " + in.verb)
}

// has reports whether the epoch of the stay may be that one: it is, or nobody
// has been told yet.
func (r register) has(epoch uint64) (bool, register) {
	switch {
	case r.stay == stay{}:
		return false, r
	case r.epoch == 0 && epoch > r.last:
		r.epoch, r.last = epoch, epoch
	}
	return r.epoch == epoch, r
}

// A history is what everybody did, and what came of it.
type history struct {
	clock atomic.Int64

	mu  sync.Mutex // guards ops
	ops []porcupine.Operation
}

func (h *history) now() int64 { return h.clock.Add(1) }

// add notes that in, begun at that time, has had out by now, or by another
// time.
func (h *history) add(call int64, in input, out output) { h.addUntil(call, h.now(), in, out) }

func (h *history) addUntil(call, until int64, in input, out output) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{Input: in, Call: call, Output: out, Return: until})
}

// never is later than anything else: what has no answer may happen at any time.
const never = 1 << 62

// check holds the history of each name against a register. Those of sessions
// belong to every name.
func (h *history) check(t *testing.T) {
	model := porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, in, out any) (bool, any) { return state.(register).step(in.(input), out.(output)) },
	}
	slices.SortFunc(h.ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, name := range linearNames {
		ops := slices.DeleteFunc(slices.Clone(h.ops), func(op porcupine.Operation) bool {
			of := op.Input.(input).name
			return of != name && of != ""
		})
		result := porcupine.CheckOperationsTimeout(model, ops, time.Minute)
		if result == porcupine.Ok {
			continue
		}
		t.Errorf("%s: the history is %v, of %d operations:", name, result, len(ops))
		for _, op := range ops {
			t.Logf("%4d to %4d: %+v: %+v", op.Call, op.Return, op.Input, op.Output)
		}
	}
}
