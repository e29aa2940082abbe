package edge

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/router"
)

// Why a visit was stopped.
var (
	errVisitorLeft   = errors.New("visitor left")
	errVisitorSlow   = errors.New("visitor slower than the least rate")
	errServiceLate   = errors.New("no answer in time")
	errServiceSilent = errors.New("nothing moved either way")
	errClosed        = errors.New("edge closed")
)

// A visitor is his side of a request and its answer, over whichever version of
// HTTP. Methods are called by one goroutine, and those of the request's body by
// one other.
type visitor interface {
	// whole returns the body if all of it is here, and otherwise not ok. Then
	// next returns it piece by piece, up to io.EOF, and trailers what came
	// behind. A piece is valid until the next call.
	whole() (body []byte, ok bool)
	next() ([]byte, error)
	trailers() []h1.Field

	// stopReading makes a next under way return soon, and those after it. Any
	// goroutine may call it.
	stopReading()

	// interim passes on an answer below 200.
	interim(s *h1.Response) error

	// begin passes on the head of the answer. After it come any number of
	// write, then end. More says that something follows at once, so that
	// nothing has to leave yet.
	begin(s *h1.Response, more bool) error
	write(b []byte, more bool) error
	end(trailers []h1.Field) error

	// upgrade passes on a 101, and returns the connection that it makes.
	upgrade(s *h1.Response) (duplex, error)

	// refusing says that nobody will read the rest of the request's body.
	refusing()

	// abort cuts the answer off so that nobody takes it for complete.
	abort()
}

// A visit is one request and its answer. A door makes it, forward takes it to
// its service.
type visit struct {
	door     *door
	visitor  visitor
	watch    *watch // of the conn, or of the request where several share one
	id       visitID
	peer     origin // whoever is at the other end
	from     origin // where the request came from
	sni      string // what the visitor said in the TLS hello, in canonical spelling; may be empty
	plain    bool   // the visitor came without TLS
	h2       bool
	req      *h1.Request
	host     string       // canonical, of the tunnel
	route    router.Route // changes only while no service has the request
	wait     router.Wait  // for the agent
	hinted   bool         // an answer below 200 has come
	trailing bool         // the visitor takes trailers
	connect  bool         // an extended CONNECT, to which any 2xx means that it is there
	method   string       // for the log, if anybody reads it
	began    time.Time    // zero unless somebody wants to know
	status   int          // of the answer; 0 while there is none
	scratch  []byte       // what fields of ours point into

	asked    string // the Host of this request, or the last,
	canon    string // and its canonical spelling,
	canonErr error  // if it has one

	mu     sync.Mutex // guards the fields below
	over   bool
	cause  error              // why it was stopped
	stream *stream            // that carries it; nil while none does
	cancel context.CancelFunc // of what is being opened; nil while nothing is
}

// open makes v ready for the request in v.req.
func (v *visit) open() {
	v.id = newVisitID()
	v.from = v.peer
	v.host, v.route, v.status = "", router.Route{}, 0
	v.wait, v.hinted = router.Wait{}, false
	v.scratch = v.scratch[:0]
	v.began = time.Time{}
	if v.debug() {
		v.began, v.method = time.Now(), string(v.req.Method)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = false
	if v.cause != errClosed { // that was meant for good
		v.cause = nil
	}
}

// stop ends a visit early. What carries it is cut, and forward finds out why.
// Only the first cause counts.
func (v *visit) stop(cause error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stopLocked(cause)
}

// stopIn is stop, unless the watch has taken another turn by now. If it has
// stopped the visit, it calls act, before the visit can be over: so act may use
// what the visit has.
func (v *visit) stopIn(turn uint32, cause error, act func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.watch.turn.Load() == turn && v.stopLocked(cause) && act != nil {
		act()
	}
}

// cutIn cuts the visitor off who takes nothing, whatever he is told.
func (v *visit) cutIn(turn uint32, cause error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.watch.turn.Load() == turn && !v.over {
		v.stopLocked(cause)
		v.visitor.abort()
	}
}

func (v *visit) stopLocked(cause error) bool {
	if v.over && cause != errClosed || v.cause != nil {
		return false
	}
	v.cause = cause
	if v.cancel != nil {
		v.cancel()
	}
	if v.stream != nil {
		v.stream.abort() // under the lock: without it, the stream may carry another visit
	}
	return true
}

// stopped returns why the visit was stopped; nil if it was not.
func (v *visit) stopped() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cause
}

// carriedBy says which stream stop has to cut; it returns the cause if it is
// too late. A nil stream means that none carries the visit any more.
func (v *visit) carriedBy(s *stream) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cause == nil || s == nil {
		v.stream = s
	}
	return v.cause
}

// opening says what stop has to cancel; it returns the cause if it is too late.
func (v *visit) opening(cancel context.CancelFunc) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cancel = cancel
	return v.cause
}

// finish says that the visit is over: nothing stops it any more.
func (v *visit) finish() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
}

// late does what the watchman finds, in one turn of the visit.
func (v *visit) late(what lateness, turn uint32) {
	switch {
	case what == lateService:
		v.stopIn(turn, errServiceLate, nil)
	case what == lateTaking, what == lateSilence && v.watch.writing.Load():
		v.cutIn(turn, errVisitorSlow)
	case what == lateSending, what == lateSilence && v.watch.reading.Load() && phase(turn&phaseMask) == phaseSending:
		v.stopIn(turn, errVisitorSlow, v.visitor.stopReading)
	case what == lateSilence:
		v.stopIn(turn, errServiceSilent, nil)
	}
}

func (v *visit) isHEAD() bool { return string(v.req.Method) == http.MethodHead }

// debug reports whether anybody reads what is logged at level debug, which
// strangers cause at will: otherwise it costs nothing.
func (v *visit) debug() bool { return v.door.log.Enabled(context.Background(), slog.LevelDebug) }

// A visitID is the number by which logs on both sides know a visit: 80 bits in
// base32.
type visitID [16]byte

func newVisitID() visitID {
	var random [10]byte
	rand.Read(random[:])
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	var id visitID
	for i := range 2 {
		b := random[5*i:]
		bits := uint64(b[0])<<32 | uint64(b[1])<<24 | uint64(b[2])<<16 | uint64(b[3])<<8 | uint64(b[4])
		for j := range 8 {
			id[8*i+j] = letters[bits>>(35-5*j)&31]
		}
	}
	return id
}

func (id visitID) String() string { return string(id[:]) }
