package router

import "fmt"

// A Problem is what an agent can say about its service.
type Problem uint8

// The set is closed. The numbers never leave the process.
const (
	ServiceRefused Problem = 1 + iota // nobody answered where the service should be
	ServiceReset                      // the service was there, and broke off
	ServiceTimeout                    // the service did not take the connection in time
)

// String gives the word that visitors and logs see.
func (p Problem) String() string {
	switch p {
	case ServiceRefused:
		return "service_refused"
	case ServiceReset:
		return "service_reset"
	case ServiceTimeout:
		return "service_timeout"
	}
	return fmt.Sprintf("problem(%d)", uint8(p))
}

// A ServiceError says that the tunnel is there and its service is not: one
// stream ended, nothing else did. Err is for logs only; it may hold internal
// addresses and is never shown to a visitor.
type ServiceError struct {
	Problem Problem
	Err     error // may be nil
}

func (e *ServiceError) Error() string {
	if e.Err == nil {
		return e.Problem.String()
	}
	return e.Problem.String() + ": " + e.Err.Error()
}

func (e *ServiceError) Unwrap() error { return e.Err }
