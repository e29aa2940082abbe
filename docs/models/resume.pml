/*
 * resume.pml: how a session outlives its lanes, and how it does not; with an
 * agent that comes back as the same session or as another one, a stranger who
 * has listened, and a visitor who waits. README.md tells how it is run and what
 * it leaves out. What happens inside of the node when a name changes hands is
 * the business of names.pml; here it is bound, and let go of, in one step.
 *
 * A d_step is a critical section of the code, which is named beside it. What is
 * left out makes for more runs, never for fewer:
 *
 *   - Time is not counted. What waits for a clock may happen as soon as it could,
 *     and as late as anything else; so may what waits for the network.
 *   - What the agent has said is whatever the node happens to hear, as long as
 *     the session lives: of a Join that is heard late, nobody can tell when it
 *     was said.
 *   - Only session 0 is joined. Session 1 begins with a lane, as 0 does, and may
 *     lose it.
 *   - What has to be secret is: copies of Joins are of those that the node has
 *     heard, and the stranger's own have the wrong token.
 *
 * Each guard of the code is taken out by a flag, -DNO_NUMBER and so on, and then
 * there has to be an error: models_test.go sees to it.
 */

#define FAULTS 1 /* lanes that break while the agent is there */

/* Sessions 0 and 1 are of one agent, one after the other. Session 2 is of a
 * stranger, who calls itself by the same id. */
#define STRANGER   2
#define NONE       7
#define ownerOf(s) (s == STRANGER)
#define owner      0 /* of the name */

typedef Road { /* what the agent has said, and what of it is under way */
	bit hello;
	bit goodbye;
	bit left     /* the agent is not there any more */
};
Road road[3];

typedef Session { /* what the node knows */
	bit welcome; /* it is one: Hello was heard */
	bit bound;   /* it has bound the name */
	bit over;    /* its mux.Conn has ended, or is about to */
	bit ended;   /* session.ended */
	byte lanes;  /* that were not found dead */
	byte last    /* the number of the last lane */
};
Session session[3];

byte agents[2] = NONE; /* Server.agents, by owner and id: sessions */
byte route = NONE;     /* Router: the session whose stay it is */
byte latest = NONE;    /* the session that bound last, for the proof alone */
byte faults = FAULTS;
byte flying = 6;       /* bits: the Joins 1 and 2 for session 0, until the node has heard them */
bit waiting = 1;       /* there is a visitor */

/* The guards. */
#ifdef NO_NUMBER
#define fresh(s, n) true
#else
#define fresh(s, n) (n > session[s].last)
#endif
#ifdef NO_PROOF
#define proved(s, who) true
#else
#define proved(s, who) (who == ownerOf(s))
#endif
#ifdef NO_SESSION
#define known(s) session[s].welcome
#else
#define known(s) (session[s].welcome && !session[s].over)
#endif
#ifdef NO_AGENT
#define place(s) 0
#else
#define place(s) ownerOf(s)
#endif
#ifdef NO_OWNER
#define mayClaim(s) true
#else
#define mayClaim(s) (ownerOf(s) == owner)
#endif
#ifdef NO_EPOCH
#define current(s) (route != NONE)
#elif defined(NO_REMOVE)
#define current(s) false
#else
#define current(s) (route == s)
#endif

/* A session that has ended does not hold the name for ever, and nobody waits
 * for ever while there is a session that could answer. */
#define stale (route != NONE && session[route].ended)
#define able  (route != NONE && !session[route].over && session[route].lanes > 0)
ltl freed    { [] (stale -> <> !stale) }
ltl answered { [] ((waiting && able) -> <> !(waiting && able)) }

/* The Agent says what it likes when it likes, and does not wait for answers.
 * It may lose patience with its first session, and with the second. */
active proctype Agent() {
	byte s;

	road[STRANGER].hello = 1;
	do
	:: s < STRANGER && !road[s].hello -> road[s].hello = 1
	:: d_step { s < STRANGER && road[s].hello -> road[s].goodbye = 1; road[s].left = 1; s++ }
	:: d_step { s < STRANGER && road[s].hello -> road[s].left = 1; s++ } /* without a word */
	:: road[s].hello || s == STRANGER -> break
	od
}

/* A Reader admits the agent of session s and hears what it says. */
proctype Reader(byte s) {
	byte older = NONE;

end_stranger:
	d_step { /* Server.welcome */
		road[s].hello ->
		session[s].welcome = 1; session[s].lanes = 1;
		older = agents[place(s)]; agents[place(s)] = s;
		if /* what the same agent has left behind ends */
		:: older != NONE ->
			assert(ownerOf(older) == ownerOf(s)); /* nobody ends the session of another owner */
			session[older].over = 1
		:: else
		fi;
		older = NONE
	};
end:	do
	:: session[s].ended -> break
	:: d_step { !session[s].bound && !session[s].ended && mayClaim(s) ->
		session[s].bound = 1; route = s; latest = s;
		assert(ownerOf(route) == owner) }
	:: d_step { road[s].goodbye && !session[s].over -> session[s].over = 1 }
	od
}

/* A Keeper ends session s. */
proctype Keeper(byte s) {
end:	if
	:: session[s].over
#ifdef SPLIT_WINDOW
	:: session[s].welcome && session[s].lanes == 0 -> d_step { assert(session[s].lanes == 0); session[s].over = 1 }
#else
	:: d_step { session[s].welcome && session[s].lanes == 0 -> session[s].over = 1 } /* mux: no lane in time */
#endif
	fi;
	session[s].ended = 1;
	d_step { /* Router.Remove */
		if
		:: session[s].bound && current(s) -> route = NONE
		:: else
		fi;
		assert(latest == NONE || session[latest].ended || route == latest) /* no live name is freed */
	}
}

/* A lane for session s, by a Join with number n and somebody's token: to look at
 * the number, and to take it, is one step, session.take. A mux.Conn that has ended
 * takes no lane after that either, and none with a lower number. */
inline attach(s, n, who) {
	if
	:: known(s) && fresh(s, n) && proved(s, who) ->
		assert(!session[s].over);      /* no session rises from the dead */
		assert(n > session[s].last);   /* no number is taken twice, or late */
		assert(who == ownerOf(s));     /* and nobody but the agent has a lane */
		session[s].last = n; session[s].lanes++
	:: else
	fi
}

/* The Network brings Joins in any order, and breaks lanes. That nobody is at the
 * other end of one any more, the node finds out sooner or later. */
proctype Network(byte s) {
end:	do
	:: d_step { s == 0 && session[0].welcome && flying & 2 -> flying = flying - 2; attach(0, 1, 0) }
	:: d_step { s == 0 && session[0].welcome && flying & 4 -> flying = flying - 4; attach(0, 2, 0) }
	:: d_step { session[s].lanes > 0 && road[s].left -> session[s].lanes-- }
	:: d_step { session[s].lanes > 0 && !road[s].left && faults > 0 -> session[s].lanes--; faults-- }
	od
}

/* The Stranger joins the agent's sessions with copies of Joins, and with every
 * number and its own token. What is refused leaves no trace, so only what is not
 * is a step. (It also says Hello, and wants the name: that is a Reader.) */
#define copied(s, n)  (!(flying & (1 << n)) && known(s) && fresh(s, n))
#define made(s, n)    (known(s) && fresh(s, n) && proved(s, ownerOf(STRANGER)))
active proctype Stranger() {
end:	do
	:: d_step { copied(0, 1) -> attach(0, 1, 0) }
	:: d_step { copied(0, 2) -> attach(0, 2, 0) }
	:: d_step { made(0, 1) -> attach(0, 1, 1) }
	:: d_step { made(0, 2) -> attach(0, 2, 1) }
	:: d_step { made(1, 1) -> attach(1, 1, 1) }
	:: d_step { made(1, 2) -> attach(1, 2, 1) }
	od
}

/* The Visitor is held until somebody has the name, and has a lane; and again if
 * that session ends first. */
active proctype Visitor() {
	byte s = NONE;

end:	do
	:: d_step { route != NONE && route != s -> s = route }; /* Router.Lookup */
end_open:	if
#ifndef NO_RETRY
		:: session[s].over /* the next one may be better */
#endif
		:: !session[s].over && session[s].lanes > 0 ->
			if
			:: d_step { route == s -> assert(ownerOf(s) == owner); waiting = 0 }; break
			:: route != s
			fi
		fi
	od
}

init {
	atomic {
		run Reader(0); run Reader(1); run Reader(STRANGER);
		run Keeper(0); run Keeper(1);
		run Network(0); run Network(1)
	}
}
