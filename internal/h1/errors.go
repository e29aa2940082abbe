package h1

import "net/http"

// An Error says why a message was refused. Behind it the connection is of no
// use: nobody knows where the next message begins.
type Error struct {
	// Status is what the visitor should be told: 400, 414, 417, 431, 501 or
	// 505 if it was a request, and 502 if it was an answer.
	Status int

	// Reason is a constant text for logs. Nothing of the message is in it.
	Reason string
}

// Error returns the reason.
func (e *Error) Error() string { return e.Reason }

// refuse makes the error for a message that is one of a service's, if answer
// says so, and otherwise one of a visitor's.
func refuse(answer bool, status int, reason string) error {
	if answer {
		status = http.StatusBadGateway
	}
	return &Error{status, reason}
}
