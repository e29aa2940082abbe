package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// TestShutdownDrains: no new connections, those in flight finish, upgraded ones
// as well; agents stay, because they carry them.
func TestShutdownDrains(t *testing.T) {
	for _, kind := range []string{"h1", "h2", "upgraded"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stays := make(agents, 2)
				w := newWorld(t, func(e *Edge) { e.Agents = stays })
				finish := make(chan bool)
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
					if kind == "upgraded" {
						c, brw, _ := http.NewResponseController(rw).Hijack()
						io.WriteString(c, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
						_ = brw
						<-finish
						io.WriteString(c, "bye")
						c.Close()
						return
					}
					<-finish
					io.WriteString(rw, "bye")
				}))
				direct := w.agent("culvert/1")
				defer direct.Close()
				agent := <-stays
				byWeb, _, err := websocket.Dial(t.Context(), "wss://"+domain+"/connect", &websocket.DialOptions{
					HTTPClient: w.visitor(false), Subprotocols: []string{agentSubprotocol},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer byWeb.CloseNow()
				webAgent := <-stays
				waiting, err := w.step.dial("192.0.2.66:6") // in the middle of a handshake
				if err != nil {
					t.Fatal(err)
				}

				got := make(chan string, 1)
				if kind == "upgraded" {
					v := w.raw(blog)
					v.send("GET / HTTP/1.1\nHost: %s\nConnection: upgrade\nUpgrade: echo\n\n", blog)
					v.answer("GET")
					go func() {
						b, err := io.ReadAll(v.r)
						got <- fmt.Sprint(string(b), err)
						v.Close()
					}()
				} else {
					c := w.visitor(kind == "h2")
					go func() {
						res, err := c.Get("https://" + blog)
						if err != nil {
							got <- err.Error()
							return
						}
						b, err := io.ReadAll(res.Body)
						res.Body.Close()
						got <- fmt.Sprint(string(b), err)
					}()
				}
				synctest.Wait()
				down := make(chan error, 1)
				go func() { down <- w.edge.Shutdown(context.Background()) }()
				synctest.Wait()

				if _, err := w.step.dial(w.from); err == nil {
					t.Error("a new connection was taken")
				}
				if _, err := waiting.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("a handshake goes on: %v", err)
				}
				waiting.Close()
				time.Sleep(50 * time.Second)
				synctest.Wait()
				select {
				case err := <-down:
					t.Fatalf("Shutdown returned %v with a visitor in flight", err)
				default:
				}
				close(finish)
				if got := <-got; got != "bye<nil>" {
					t.Errorf("visitor got %q", got)
				}
				if err := <-down; err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				for name, s := range map[string]agentStay{"TLS": agent, "WebSocket": webAgent} {
					if s.ctx.Err() != nil {
						t.Errorf("Shutdown ended the agent by %s", name)
					}
				}
				go io.WriteString(direct, "x")
				if _, err := agent.conn.Read(make([]byte, 1)); err != nil {
					t.Errorf("agent after Shutdown: %v", err)
				}
				go byWeb.Write(t.Context(), websocket.MessageBinary, []byte("x"))
				if _, err := webAgent.conn.Read(make([]byte, 1)); err != nil {
					t.Errorf("agent by WebSocket after Shutdown: %v", err)
				}
				select {
				case err := <-w.served:
					t.Fatalf("Serve returned %v with agents left", err)
				default:
				}
				close(agent.done)
				close(webAgent.done)
				err = <-w.served
				if err != nil {
					t.Errorf("Serve: %v", err)
				}
				w.served <- err // for the end of the test
			})
		})
	}
}

// agent connects as an agent does.
func (w *world) agent(protocol string) net.Conn {
	w.t.Helper()
	c, err := w.step.dial(w.from)
	if err != nil {
		w.t.Fatal(err)
	}
	tc := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: domain, NextProtos: []string{protocol}})
	if err := tc.Handshake(); err != nil {
		w.t.Fatal(err)
	}
	return tc
}

// TestShutdownCuts: when the time is up, what is left is cut, and the visitor
// does not take it for the end of the answer. Agents stay even then.
func TestShutdownCuts(t *testing.T) {
	for _, kind := range []string{"h1", "h2", "upgraded"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stays := make(agents, 1)
				w := newWorld(t, func(e *Edge) { e.Agents = stays })
				s := newService(func(rw http.ResponseWriter, r *http.Request) {
					if kind == "upgraded" {
						rw.Header().Set("Connection", "Upgrade")
						rw.Header().Set("Upgrade", "echo")
						rw.WriteHeader(101)
						c, _, _ := http.NewResponseController(rw).Hijack()
						c.Read(make([]byte, 1))
						c.Close()
						return
					}
					io.WriteString(rw, "half")
					http.NewResponseController(rw).Flush()
					<-r.Context().Done()
				})
				w.bind(blog, s)
				direct := w.agent("culvert/1")
				defer direct.Close()
				agent := <-stays

				got := make(chan error, 1)
				if kind == "upgraded" {
					v := w.raw(blog)
					v.send("GET / HTTP/1.1\nHost: %s\nConnection: upgrade\nUpgrade: echo\n\n", blog)
					v.answer("GET")
					go func() {
						_, err := v.r.ReadByte()
						got <- err
					}()
				} else {
					c := w.visitor(kind == "h2")
					go func() {
						res, err := c.Get("https://" + blog)
						if err == nil {
							_, err = io.ReadAll(res.Body)
							res.Body.Close()
						}
						got <- err
					}()
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				start := time.Now()
				if err := w.edge.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Shutdown: got %v; want %v", err, context.DeadlineExceeded)
				}
				if took := time.Since(start); took != 30*time.Second {
					t.Errorf("took %v", took)
				}
				if err := <-got; err == nil {
					t.Error("visitor took the cut for the end")
				}
				if agent.ctx.Err() != nil {
					t.Error("Shutdown ended an agent")
				}
				synctest.Wait()
				if got := s.aborted.Load(); got != 1 {
					t.Errorf("%d streams aborted; want 1", got)
				}
				close(agent.done)
			})
		})
	}
}

// TestClose ends everything at once, any number of times.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stays := make(agents, 1)
		w := newWorld(t, func(e *Edge) { e.Agents = stays })
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		direct := w.agent("culvert/1")
		defer direct.Close()
		agent := <-stays
		failed := make(chan error, 1)
		go func() {
			_, err := w.visitor(true).Get("https://" + blog)
			failed <- err
		}()
		synctest.Wait()
		for range 2 {
			w.edge.Close()
		}
		if <-agent.ctx.Done(); <-failed == nil {
			t.Error("visitor got an answer")
		}
		step := newDoorstep()
		if err := w.edge.Serve(t.Context(), step); err != nil {
			t.Errorf("Serve after Close: %v", err)
		}
		if err := w.edge.ServeRedirect(t.Context(), newDoorstep()); err != nil {
			t.Errorf("ServeRedirect after Close: %v", err)
		}
		if err := w.edge.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown after Close: %v", err)
		}
	})
}

// TestContextEndsServe is Close by another name.
func TestContextEndsServe(t *testing.T) {
	w := newWorld(t, nil)
	e := &Edge{Domain: domain, GetCertificate: w.edge.GetCertificate, Visitors: w.routes}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 2)
	go func() { served <- e.Serve(ctx, newDoorstep()) }()
	go func() { served <- e.ServeRedirect(ctx, newDoorstep()) }()
	cancel()
	for range 2 {
		if err := within(t, "Serve", served); err != nil {
			t.Errorf("got %v want nil", err)
		}
	}
}
