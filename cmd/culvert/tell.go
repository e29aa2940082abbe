package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvertd/culvert"
)

// again is how soon the same line may be said again.
const again = 10 * time.Second

// A teller says on stderr what happens to an agent, or on stdout in JSON.
type teller struct {
	cli    *cli
	target string
	host   string // for which the service is asked; empty for the public one

	mu   sync.Mutex // guards the fields below, and the order of lines
	last string
	when time.Time
}

func (t *teller) tell(e culvert.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cli.json {
		json.NewEncoder(t.cli.out).Encode(e)
		return
	}
	switch e.Kind {
	case culvert.EventConnected:
		t.say(fmt.Sprintf("connected to %s", e.Server), nil)
	case culvert.EventReady:
		t.say(fmt.Sprintf("visitors of %s come to %s", e.URL, t.target), nil)
	case culvert.EventDisconnected:
		if e.Retry > 0 { // or else it is the end, and will be said as such
			t.say(fmt.Sprintf("%v; trying again", e.Err), e.Err)
		}
	case culvert.EventResuming:
		t.say(fmt.Sprintf("%v; visitors wait while it is dialled again", e.Err), e.Err)
	case culvert.EventResumed:
		t.say(fmt.Sprintf("connected again after %v; nothing was lost", e.Took.Round(10*time.Millisecond)), nil)
	case culvert.EventNetworkChanged:
		t.say("the network has changed", nil)
	case culvert.EventWoke:
		t.say("the machine was asleep", nil)
	case culvert.EventRefused:
		t.say(fmt.Sprintf("%v; asking again", e.Err), e.Err)
	case culvert.EventServiceFailed:
		t.say(fmt.Sprintf("a visitor could not be served: %v", e.Err), e.Err)
	case culvert.EventServiceUnverified:
		t.say(fmt.Sprintf("WARNING: nobody verifies the certificate of %s (--service-insecure); whoever answers there gets what visitors send", t.target), nil)
	case culvert.EventHostUnknown:
		if !t.cli.quiet {
			fmt.Fprintf(t.cli.err, "hint: %s\n", printable(fmt.Sprintf("%v; %s", e.Err, t.hostHint(e.Err))))
		}
	case culvert.EventDraining:
		t.say("the node asks to leave; moving on, visitors in flight may finish", nil)
	}
}

// waiting says why it takes so long to stop.
func (t *teller) waiting() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.cli.json {
		t.say("visitors in flight may finish; interrupt again to stop at once", nil)
	}
}

// say prints a line, and what can be done about err, unless it has just done
// so: a page with a hundred pictures is not to be told of a hundred times.
func (t *teller) say(line string, err error) {
	if t.cli.quiet || line == t.last && time.Since(t.when) < again {
		return
	}
	t.last, t.when = line, time.Now()
	fmt.Fprintf(t.cli.err, "culvert: %s\n", printable(line))
	if advice := hint(err); advice != "" {
		fmt.Fprintf(t.cli.err, "hint: %s\n", printable(advice))
	}
}

// hostHint says what to do about a service that does not know the host it is
// asked for.
func (t *teller) hostHint(err error) string {
	if e, ok := errors.AsType[*culvert.UnknownHostError](err); ok && e.Forwarded {
		return "it looks at X-Forwarded-Host as well, so add the public host to those that it allows (config.hosts in Rails, allowedHosts in Angular)"
	}
	if t.host == "" {
		return "try --host-header service"
	}
	return "name one that it knows with --host-header, or add this one to those that it allows"
}

// failed is the last event of a run that did not end as asked.
func (c *cli) failed(err error, advice string, exit int) {
	v := struct {
		Time  time.Time `json:"time"`
		Event string    `json:"event"`
		Error string    `json:"error"`
		Code  string    `json:"code,omitempty"`
		Hint  string    `json:"hint,omitempty"`
		Exit  int       `json:"exit"`
	}{time.Now(), "failed", err.Error(), "", advice, exit}
	if e, ok := errors.AsType[*culvert.RefusedError](err); ok {
		v.Code = e.Code
	}
	json.NewEncoder(c.out).Encode(v)
}

// hint says what to do about err, to someone at a terminal; "" if we don't know.
func hint(err error) string {
	if e, ok := errors.AsType[*usageError](err); ok {
		return e.hint
	}
	if e, ok := errors.AsType[*culvert.ServiceError](err); ok {
		return serviceHint(e)
	}
	if e, ok := errors.AsType[*culvert.ConfigError](err); ok {
		return configHint(e)
	}
	for sentinel, advice := range map[error]string{
		culvert.ErrUnauthorized:   "ask the operator of the node for a token, then run culvert login again; tokens expire and can be revoked",
		culvert.ErrRevoked:        "ask the operator of the node for a token, then run culvert login again",
		culvert.ErrNameTaken:      "choose another with --name",
		culvert.ErrNameInvalid:    "choose another with --name: letters, digits and hyphens, at most 63",
		culvert.ErrNameNotAllowed: "choose one with --name that the token is for, or ask the operator of the node",
		culvert.ErrTooManyTunnels: "stop another tunnel first",
		culvert.ErrReplaced:       "another culvert of yours holds the name now; stop it, or choose another name with --name",
		culvert.ErrNameInUse:      "another culvert of yours wants the name as well, and takes it back each time; stop one of them, choose another name with --name, or let them share it: --takeover pool for both",
		culvert.ErrNameHeld:       "another culvert of yours has the name; stop it, choose another name with --name, or let them share it: --takeover pool for both",
		culvert.ErrOptionInvalid:  "if the node is older than this culvert, ask its operator to update it, or do without that option",
		culvert.ErrVersion:        "update culvert, or ask the operator of the node to update it",
	} {
		if errors.Is(err, sentinel) {
			return advice
		}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "pass --ca FILE with the CA of the node, if it has its own (DATA/ca/root.pem there); or this is not the node it says it is"
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the certificate is not for %q; check the name of the server", e.Host)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return fmt.Sprintf("if the clock of this machine is right (%s), the operator of the node must renew its certificate", time.Now().Format(time.DateTime))
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return "check the name of the server"
	}
	if errors.Is(err, os.ErrPermission) {
		return "check who may read and write that file"
	}
	return ""
}

func configHint(e *culvert.ConfigError) string {
	switch e.Field {
	case "host header":
		return "--host-header is keep, service or a host"
	case "service timeout", "silence":
		return "0 is no limit"
	}
	return ""
}

func serviceHint(e *culvert.ServiceError) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](e); ok {
		return "pass --service-ca FILE with the CA of the service, or with its own certificate if it signed that itself; or --service-insecure to verify nothing"
	}
	if e, ok := errors.AsType[x509.HostnameError](e); ok {
		return fmt.Sprintf("the certificate of the service is not for %q; name the service as its certificate does, or pass --service-insecure to verify nothing", e.Host)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](e); ok && e.Reason == x509.Expired {
		return "renew the certificate of the service, or pass --service-insecure to verify nothing"
	}
	if e, ok := errors.AsType[*culvert.ProtoError](e); ok {
		if e.Want == culvert.HTTP2 {
			return "if it speaks HTTP/1.1 only, leave --service-proto h2 out"
		}
		return "if it speaks HTTP/2 only, pass --service-proto h2"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](e); ok {
		return "the service speaks no TLS; name it with http:// (and HTTP/2 without TLS is --service-proto h2c)"
	}
	if errors.Is(e, os.ErrPermission) {
		return "this user may not open the socket of the service"
	}
	if e.Timeout {
		return "is the service busy, or behind a firewall?"
	}
	return "is the service running?"
}
