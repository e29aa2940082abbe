/*
 * names.pml: who holds a name, while sessions bind it, let go of it, take it
 * from each other and end, all at once. README.md tells how it is run, what it
 * has found and what it leaves out; resume.pml is about a session's lanes.
 *
 * A d_step is a critical section of the code, which is named beside it. Between
 * two of them anything else may happen, so whatever can be late is late in some
 * run: an old session hears its goodbye after its successor has bound, and the
 * Remove of an old stay is a step of its own that may be the last one of all.
 *
 * What is left out makes for more runs, never for fewer:
 *
 *   - One name: names do not know each other.
 *   - A session may end at any moment, whatever the reason. So it need not be
 *     known when it began, nor which of them are of the same agent.
 *   - Agents have no state. What an agent has said is whatever the node happens
 *     to hear, in the order of the control stream, as late as may be.
 *   - A policy that refuses a second agent is a word that was not said.
 *
 * Each guard of the code is taken out by a flag, -DNO_EPOCH and so on, and then
 * there has to be an error: models_test.go sees to it.
 */

/* Sessions 0, 1 and 2 are of the owner of the name. What they say is bind,
 * unbind and bind: the first one word of it, the last all three. Session 3 is of
 * a stranger, who says bind. */
#define STRANGER   3
#define NONE       7
#define words(s)   (s + 1)
#define ownerOf(s) (s == STRANGER)
#define owner      0

typedef Session {
	bit ended; /* session.ended */
	byte said; /* how much of what the agent says has been heard */
	byte held; /* the epoch of its tunnel's stay; 0 is none */
	bit in;    /* that tunnel is among session.tunnels */
	bit bound; /* tunnel.bound */
	bit lost;  /* tunnel.winner is somebody */
	byte told  /* the stay that the agent has been told it has; 0 is none */
};
Session session[3];

byte route = NONE; /* Router.routes: a session */
byte routed;       /*                and the epoch of its stay */
byte epoch;        /* Router.epoch: of the last stay that began */
byte busy;         /* how many are in the middle of something */

/* The guards. */
#ifdef NO_EPOCH
#define current(e) (route != NONE)
#else
#define current(e) (routed == e)
#endif
#ifdef NO_OWNER
#define mayClaim(s) true
#else
#define mayClaim(s) (ownerOf(s) == owner)
#endif
#ifdef NO_ENDED
#define ended(s) false
#else
#define ended(s) session[s].ended
#endif
#ifdef NO_LOST
#define lost(s) false
#else
#define lost(s) session[s].lost
#endif
#ifdef NO_BOUND
#define bound(s) true
#else
#define bound(s) session[s].bound
#endif

/* The properties. */

/* Nobody but the name's owner has its visitors. (A host has one route, so that
 * they are never divided.) */
#define rightful (route == NONE || ownerOf(route) == owner)

/* The last stay is the route until its own session lets go of it, or ends. This
 * is what a late message would break. */
#define keeps(s) (session[s].held == 0 || session[s].held != epoch || (routed == epoch && route == s))
#define kept     (keeps(0) && keeps(1) && keeps(2))

/* While nobody is in the middle of something, the route is a session that
 * lives, and every agent knows what it has. */
#define stale    (route != NONE && session[route].ended)
#define knows(s) (session[s].ended || session[s].told == (route == s -> routed : 0))
#define settled  (busy > 0 || (!stale && knows(0) && knows(1) && knows(2)))

/* Whatever happens, a session that has ended does not hold the name for ever. */
ltl freed { [] (stale -> <> !stale) }

/* Router.Add, which tells whom it has taken the host from */
inline add(s, e, from, taken) {
	from = route; taken = routed;
	epoch++; e = epoch;
	route = s; routed = e;
	assert(rightful)
}

/* Router.Remove; stay 0 is none */
inline remove(e) {
	if
	:: e != 0 && current(e) -> route = NONE; routed = 0
	:: else
	fi;
	assert(kept)
}

/* The tunnel of session s is none any more, and the agent is told if it thinks
 * otherwise: Unbound. */
inline forget(s) {
	if
	:: session[s].told == session[s].held -> session[s].told = 0
	:: else
	fi;
	session[s].held = 0; session[s].in = 0; session[s].bound = 0; session[s].lost = 0
}

inline done() {
	busy--;
	assert(settled)
}

/* A Reader handles what the agent of session s says. */
proctype Reader(byte s) {
	byte e, taken, from = NONE;

end:	do
	:: session[s].ended -> break

	:: d_step { /* session.bind: the claim, and a stay begins */
		session[s].said < words(s) && session[s].said != 1 && session[s].held == 0 && mayClaim(s) ->
		session[s].said++; busy++;
		add(s, e, from, taken);
		session[s].held = e
	   };
	   if /* session.open: the session takes the tunnel in, or ends meanwhile */
	   :: d_step { ended(s) -> session[s].held = 0; session[s].lost = 0 };
		d_step { remove(e) }
	   :: d_step { !ended(s) -> session[s].in = 1 };
		d_step { /* Bound, and session.bound: it may be lost by now */
			session[s].told = e;
			if
			:: session[s].held == e && lost(s) -> forget(s)
			:: session[s].held == e && !lost(s) -> session[s].bound = 1
			:: else
			fi
		}
	   fi;
	   d_step { /* session.replaced: the loser is told, if it has been told that it had the name */
		if
		:: from != NONE && session[from].held == taken ->
			if
			:: session[from].in && bound(from) -> forget(from)
			:: else -> session[from].lost = 1
			fi
		:: else
		fi;
		e = 0; from = NONE; taken = 0;
		done()
	   }

	:: d_step { /* session.unbind */
		session[s].said < words(s) && session[s].said == 1 ->
		session[s].said++; busy++;
		e = session[s].held;
		forget(s)
	   };
	   d_step { remove(e); e = 0; done() }
	od
}

/* A Keeper ends session s when its time has come: session.end. */
proctype Keeper(byte s) {
	byte e;

	d_step {
		session[s].ended = 1; busy++;
		if
		:: session[s].in -> e = session[s].held; forget(s)
		:: else
		fi
	};
	d_step { remove(e); e = 0; done() }
}

/* A Stranger wants the name. */
active proctype Stranger() {
	byte e, taken, from;

end:	d_step { mayClaim(STRANGER) -> add(STRANGER, e, from, taken) }
}

init {
	atomic {
		run Reader(0); run Reader(1); run Reader(2);
		run Keeper(0); run Keeper(1); run Keeper(2)
	}
}
