package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// engineLog gives the engine's words to slog. The engine speaks of every start
// and stop; only its warnings and errors are worth an operator's time, and a
// "fatal" of its own ends Open, never the process.
type engineLog struct {
	log *slog.Logger

	mu    sync.Mutex // guards the fields below
	worst string
	dead  bool // it said so itself
}

func (l *engineLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l *engineLog) Debugf(format string, v ...any)  { l.say(slog.LevelDebug, format, v) }
func (l *engineLog) Tracef(format string, v ...any)  {}
func (l *engineLog) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v) }
func (l *engineLog) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v) }

func (l *engineLog) Fatalf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
}

func (l *engineLog) say(level slog.Level, format string, v []any) {
	text := fmt.Sprintf(format, v...)
	if level >= slog.LevelWarn {
		l.mu.Lock()
		l.worst = text
		l.mu.Unlock()
	}
	// The engine's text is no constant; it stands in an attribute of ours.
	l.log.Log(context.Background(), level, "store engine spoke", "text", text)
}

// died reports whether the engine gave up.
func (l *engineLog) died() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// lastError is the last warning or error, "" if there was none.
func (l *engineLog) lastError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.worst
}
