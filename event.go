package culvert

import (
	"encoding/json"
	"errors"
	"time"
)

// An EventKind says what happened. Its text is stable.
type EventKind string

// The kinds of events, with the fields that they fill in.
const (
	EventConnecting        EventKind = "connecting"         // Server
	EventConnected         EventKind = "connected"          // Server, Session, Transport: a session began
	EventDisconnected      EventKind = "disconnected"       // Server, Err, Retry: a session ended, or did not begin
	EventResuming          EventKind = "resuming"           // Server, Session, Err, Retry: the session has no connection, or an attempt to give it one failed; its streams wait
	EventResumed           EventKind = "resumed"            // Server, Session, Transport, Took: it has one again, and nothing was lost
	EventNetworkChanged    EventKind = "network_changed"    // Server, Session: this machine has lost the address of a connection
	EventWoke              EventKind = "woke"               // nothing of ours ran for a while: the machine was asleep
	EventReady             EventKind = "ready"              // Name, URL: a tunnel is open, again after each reconnect
	EventEnded             EventKind = "ended"              // Name, URL, Err: a tunnel was refused or lost, for good
	EventRefused           EventKind = "refused"            // Name, Err, Retry: a tunnel was refused for now
	EventServiceFailed     EventKind = "service_failed"     // Name, URL, Err: the service did not take a visitor
	EventServiceUnverified EventKind = "service_unverified" // Name, URL: Forward begins, and whoever answers is taken for the service
	EventHostUnknown       EventKind = "host_unknown"       // Name, URL, Err: the service refused the host it was asked for; once for each tunnel
	EventDraining          EventKind = "draining"           // Server: the node will end the session soon; another one is begun first
)

// An Event is something that the people around an agent may want to know.
type Event struct {
	Time      time.Time
	Kind      EventKind
	Server    string
	Session   string        // as it stands in the logs of the node
	Transport Transport     // how the node was reached
	Name      string        // of a tunnel
	URL       string        // of a tunnel
	Err       error         // nil if nothing went wrong
	Retry     time.Duration // until the next attempt
	Took      time.Duration // for which there was no connection
}

// MarshalJSON writes an event as one flat object with time, event, and of
// server, session, transport, name, url, error, code, retry_ms and took_ms those
// that apply. code is that of a [RefusedError].
func (e Event) MarshalJSON() ([]byte, error) {
	v := struct {
		Time      time.Time `json:"time"`
		Event     EventKind `json:"event"`
		Server    string    `json:"server,omitempty"`
		Session   string    `json:"session,omitempty"`
		Transport string    `json:"transport,omitempty"`
		Name      string    `json:"name,omitempty"`
		URL       string    `json:"url,omitempty"`
		Error     string    `json:"error,omitempty"`
		Code      string    `json:"code,omitempty"`
		RetryMS   *int64    `json:"retry_ms,omitempty"`
		TookMS    *int64    `json:"took_ms,omitempty"`
	}{Time: e.Time, Event: e.Kind, Server: e.Server, Session: e.Session, Name: e.Name, URL: e.URL}
	if e.Kind == EventConnected || e.Kind == EventResumed {
		v.Transport = e.Transport.String()
	}
	if e.Err != nil {
		v.Error = e.Err.Error()
	}
	if r, ok := errors.AsType[*RefusedError](e.Err); ok {
		v.Code = r.Code
	}
	if e.Kind == EventDisconnected || e.Kind == EventRefused || e.Kind == EventResuming {
		ms := e.Retry.Milliseconds()
		v.RetryMS = &ms
	}
	if e.Kind == EventResumed {
		ms := e.Took.Milliseconds()
		v.TookMS = &ms
	}
	return json.Marshal(v)
}

// emit tells the log and OnEvent. Nobody calls it with a mutex held.
func (a *Agent) emit(e Event) {
	e.Time = time.Now()
	a.log(e)
	if a.OnEvent != nil {
		a.OnEvent(e)
	}
}

func (a *Agent) log(e Event) {
	log := a.logger()
	switch e.Kind {
	case EventConnecting:
		log.Debug("session started to connect", "server", e.Server)
	case EventConnected:
		log.Info("session began", "server", e.Server, "session", e.Session, "transport", e.Transport.String())
	case EventDisconnected:
		log.Warn("session ended", "server", e.Server, "retry", e.Retry, "err", e.Err)
	case EventResuming:
		log.Warn("connection lost", "server", e.Server, "session", e.Session, "retry", e.Retry, "err", e.Err)
	case EventResumed:
		log.Info("session resumed", "server", e.Server, "session", e.Session, "transport", e.Transport.String(), "after", e.Took)
	case EventNetworkChanged:
		log.Info("network changed", "server", e.Server, "session", e.Session)
	case EventWoke:
		log.Info("machine woke")
	case EventReady:
		log.Info("tunnel opened", "tunnel", e.Name, "url", e.URL)
	case EventEnded:
		log.Warn("tunnel ended", "tunnel", e.Name, "err", e.Err)
	case EventRefused:
		log.Warn("tunnel refused", "tunnel", e.Name, "retry", e.Retry, "err", e.Err)
	case EventServiceFailed:
		log.Debug("service refused a visitor", "tunnel", e.Name, "err", e.Err)
	case EventServiceUnverified:
		log.Warn("service not verified", "tunnel", e.Name)
	case EventHostUnknown:
		log.Warn("service refused the host", "tunnel", e.Name, "err", e.Err)
	case EventDraining:
		log.Info("node started to drain", "server", e.Server)
	}
}
