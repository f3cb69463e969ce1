// Threads of one block as fibres: each runs until it has to wait for others, in an order that we choose.
//
// A thread waits for an Event to happen once more: a barrier is an event that its last arriver makes
// happen, and so are a warp's collective instruction and anything else that threads wait for. Where no
// thread can go on and some are not at their end, the block is stuck, and the launch says who waits where.
//
// What a GPU promises about the order of its threads is nothing, so a right kernel is right in all:
//   ROUND_ROBIN    each thread from one wait to the next, then the next thread
//   WARP_FORWARD   a whole warp as far as it can go before the next warp starts: a warp runs ahead of
//   WARP_REVERSE   others as far as barriers let it, which is what a missing barrier needs to be seen
//   RANDOM         a random warp one step, its lanes in random order; then another. Repeatable by seed
//
// Fibres switch by _setjmp/_longjmp, which asks the kernel of the machine for nothing (20 ns); under a
// sanitizer by swapcontext, with the sanitizer told: AddressSanitizer of the new stack, ThreadSanitizer
// of a new thread. For the latter only events order threads, so it finds each pair of accesses that no
// barrier parts, whatever the order here: a race check.

#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#if defined(__SANITIZE_THREAD__)
extern "C" {
void *__tsan_get_current_fiber();
void *__tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void *);
void __tsan_switch_to_fiber(void *, unsigned);
void __tsan_acquire(void *);
void __tsan_release(void *);
}
#elif defined(__SANITIZE_ADDRESS__)
extern "C" {
void __sanitizer_start_switch_fiber(void **, const void *, std::size_t);
void __sanitizer_finish_switch_fiber(void *, const void **, std::size_t *);
}
#endif

// The emulator's own bookkeeping is shared without barriers, and is no business of a sanitizer.
#define UNSEEN __attribute__((noinline, no_sanitize("thread", "address")))

namespace cuda_on_cpu {

enum Schedule { ROUND_ROBIN, WARP_FORWARD, WARP_REVERSE, RANDOM };

constexpr int MOST_THREADS = 1024, WARP = 32;
constexpr std::size_t STACK_BYTES = 256 << 10;

struct Index {
    unsigned x, y, z;
};

// Something that happens again and again, and that threads wait for.
struct Event {
    const char *name;
    unsigned happened = 0;
    int arrived = 0;
};

struct Fibre {
    jmp_buf jump;
    ucontext_t context;
    void *stack = nullptr;
    void *sanitizer = nullptr;  // its name for this fibre, or where it keeps the fibre's false stack
    Index index;
    const Event *waits = nullptr;
    unsigned until = 0;
    bool finished = true;
};

struct Block {
    Index index, threads, blocks;
    unsigned number = 0;   // differs from launch to launch and from block to block
    int count = 0;         // threads
    int running = 0;       // the thread whose turn it is
    bool fresh = false;    // it has not run before
    void (*kernel)(void *) = nullptr;
    void *arguments = nullptr;
    char error[512] = "";  // set: the block is given up
    uint64_t state = 1;    // of the random numbers
};

inline Block block;
inline Fibre fibres[MOST_THREADS];
inline Fibre scheduler;
inline char block_start, block_end;  // for ThreadSanitizer: what orders blocks, and no two threads of one
inline Event barriers[16], warps[MOST_THREADS / WARP], warpgroups[MOST_THREADS / 128];

inline bool can_run(const Fibre &f) { return !f.finished && (!f.waits || f.waits->happened != f.until); }

#if defined(__SANITIZE_ADDRESS__)
inline const void *scheduler_stack;  // where the scheduler's lies, as the sanitizer tells
inline std::size_t scheduler_bytes;
#endif

UNSEEN inline void switch_over(Fibre &from, Fibre &to)
{
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.sanitizer, 1);  // 1: the switch itself orders nothing
    swapcontext(&from.context, &to.context);
#elif defined(__SANITIZE_ADDRESS__)
    const bool inward = &from == &scheduler;
    __sanitizer_start_switch_fiber(&from.sanitizer, inward ? to.stack : scheduler_stack,
                                   inward ? STACK_BYTES : scheduler_bytes);
    swapcontext(&from.context, &to.context);
    __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#else
    if (_setjmp(from.jump) == 0) {
        if (block.fresh)
            setcontext(&to.context);
        _longjmp(to.jump, 1);
    }
#endif
}

// Gives the launch up. The fibre that fails is not run again.
UNSEEN inline void fail(const char *what)
{
    if (!*block.error) {
        const Index t = fibres[block.running].index, b = block.index;
        std::snprintf(block.error, sizeof block.error, "thread (%u, %u, %u) of block (%u, %u, %u): %s",
                      t.x, t.y, t.z, b.x, b.y, b.z, what);
    }
    switch_over(fibres[block.running], scheduler);
}

// Counts the calling thread in. The last of `count` makes the event happen, the others wait for it.
UNSEEN inline void meet(Event &event, int count)
{
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&event);
#endif
    if (++event.arrived >= count) {
        event.arrived = 0;
        ++event.happened;
    } else {
        Fibre &me = fibres[block.running];
        me.waits = &event;
        me.until = event.happened;
        switch_over(me, scheduler);
        me.waits = nullptr;
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&event);
#endif
}

// All threads of the calling thread's warp.
UNSEEN inline void meet_warp()
{
    const int warp = block.running / WARP, rest = block.count - warp * WARP;
    meet(warps[warp], rest < WARP ? rest : WARP);
}

// Where a fibre starts, and where it comes back to for each block.
UNSEEN inline void live()
{
    block.fresh = false;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_bytes);
#endif
    for (;;) {
#if defined(__SANITIZE_THREAD__)
        __tsan_acquire(&block_start);
#endif
        block.kernel(block.arguments);
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&block_end);
#endif
        fibres[block.running].finished = true;
        switch_over(fibres[block.running], scheduler);
    }
}

UNSEEN inline void run(int i)
{
    block.running = i;
    Fibre &f = fibres[i];
    block.fresh = f.stack == nullptr;
    if (block.fresh) {
        f.stack = std::malloc(STACK_BYTES);
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack;
        f.context.uc_stack.ss_size = STACK_BYTES;
        f.context.uc_link = nullptr;
        makecontext(&f.context, live, 0);
#if defined(__SANITIZE_THREAD__)
        f.sanitizer = __tsan_create_fiber(0);
#endif
    }
    switch_over(scheduler, f);
}

UNSEEN inline unsigned random_below(unsigned n)
{
    block.state ^= block.state << 13;  // Marsaglia's xorshift
    block.state ^= block.state >> 7;
    block.state ^= block.state << 17;
    return static_cast<unsigned>((block.state >> 33) % n);
}

// Runs the threads first .. end-1 that can run, each up to its next wait. False if none could.
UNSEEN inline bool step(int first, int end, Schedule schedule)
{
    int order[MOST_THREADS], n = 0;
    for (int i = first; i < end; ++i)
        order[n++] = schedule == WARP_REVERSE ? end - 1 - (i - first) : i;
    if (schedule == RANDOM)
        for (int i = n - 1; i > 0; --i) {
            const int j = random_below(i + 1), kept = order[i];
            order[i] = order[j];
            order[j] = kept;
        }
    bool any = false;
    for (int i = 0; i < n && !*block.error; ++i)
        if (can_run(fibres[order[i]])) {
            any = true;
            run(order[i]);
        }
    return any;
}

// One round over all warps of the block. False if no thread could run.
UNSEEN inline bool round_of_warps(Schedule schedule)
{
    const int count = (block.count + WARP - 1) / WARP;
    bool any = false;
    for (int turn = 0; turn < count && !*block.error; ++turn) {
        int warp = schedule == WARP_REVERSE ? count - 1 - turn : turn;
        if (schedule == RANDOM)
            warp = random_below(count);
        const int first = warp * WARP, end = first + WARP < block.count ? first + WARP : block.count;
        if (schedule == RANDOM)
            any |= step(first, end, schedule);
        else
            while (!*block.error && step(first, end, schedule))
                any = true;
    }
    return any;
}

// Who waits for what, when nobody can go on.
UNSEEN inline void tell_stuck()
{
    int ended = 0, n = 0;
    char where[400] = "";
    const Event *told[8];
    int number = 0;
    for (int i = 0; i < block.count; ++i) {
        const Event *e = fibres[i].finished ? nullptr : fibres[i].waits;
        ended += fibres[i].finished;
        bool known = e == nullptr;
        for (int k = 0; k < number; ++k)
            known |= told[k] == e;
        if (known || number == 8)
            continue;
        told[number++] = e;
        int waiting = 0;
        for (int j = 0; j < block.count; ++j)
            waiting += !fibres[j].finished && fibres[j].waits == e;
        n += std::snprintf(where + n, sizeof where - n, ", %d wait at %s", waiting, e->name);
        if (n > 300)
            break;
    }
    std::snprintf(block.error, sizeof block.error, "block (%u, %u, %u) is stuck: of %d threads %d ended%s",
                  block.index.x, block.index.y, block.index.z, block.count, ended, where);
}

UNSEEN inline void run_block(Schedule schedule)
{
    for (Event &e : barriers)
        e = Event{"__syncthreads or a named barrier"};
    for (Event &e : warps)
        e = Event{"an instruction of a whole warp"};
    for (Event &e : warpgroups)
        e = Event{"an instruction of a whole warpgroup"};
    for (int i = 0; i < block.count; ++i) {
        Fibre &f = fibres[i];
        f.finished = false;
        f.waits = nullptr;
        f.index = {i % block.threads.x, i / block.threads.x % block.threads.y,
                   i / (block.threads.x * block.threads.y)};
    }
#if defined(__SANITIZE_THREAD__)
    scheduler.sanitizer = __tsan_get_current_fiber();
    __tsan_release(&block_start);
#endif
    for (bool going = true; going && !*block.error;) {
        going = schedule == ROUND_ROBIN ? step(0, block.count, schedule) : round_of_warps(schedule);
        for (int i = 0; !going && i < block.count; ++i)
            going = can_run(fibres[i]);  // the random rounds may have missed it
    }
    for (int i = 0; i < block.count && !*block.error; ++i)
        if (!fibres[i].finished)
            tell_stuck();
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&block_end);
#endif
}

// Fibres that a failed launch left in the middle of a kernel cannot be used again.
UNSEEN inline void forget_fibres()
{
    for (Fibre &f : fibres) {
#if defined(__SANITIZE_THREAD__)
        if (f.sanitizer)
            __tsan_destroy_fiber(f.sanitizer);
#endif
        std::free(f.stack);
        f = Fibre{};
    }
}

}  // namespace cuda_on_cpu
