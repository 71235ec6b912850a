/* Looking for input for a bounded time without going to sleep: what Spinner does in spinner.py, without the interpreter
   lock and without Python between two looks. */

#ifndef ERL_BRIDGE_SPIN_H
#define ERL_BRIDGE_SPIN_H

#include <time.h>

/* Input was there at the first look; none came; it came; it came, but the processor was others' meanwhile. */
enum { SPIN_THERE_BEFORE, SPIN_IN_VAIN, SPIN_WORTH_IT, SPIN_PREEMPTED };

static inline long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* For `limit` nanoseconds. `look` says whether there is input; when it takes `preempted` or longer it was kept from the
   processor. */
static inline int spin(int (*look)(void *), void *at, long long limit, long long preempted)
{
    long long now = now_ns(), until = now + limit;
    if (look(at)) return SPIN_THERE_BEFORE;
    for (now = now_ns(); now < until;) {
        int ready = look(at);
        long long before = now;
        now = now_ns();
        if (ready) return now - before < preempted ? SPIN_WORTH_IT : SPIN_PREEMPTED;
    }
    return SPIN_IN_VAIN;
}

#endif
