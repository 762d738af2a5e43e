/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What every call passes before it does anything, in this order: settings that could be read, an
 * initialised driver, the sickness of the process, the loss of the device, the failures it was told
 * to have, the time it takes.
 *
 * Sick: after certain errors a real process can do nothing more with the driver; each later call
 * says the same until the process ends. Lost: the device fails for all processes, until nobody uses
 * it and nothing of it is allocated, which is also when a real one can be reset.
 *
 * A child of fork() has no driver, as with the real one.
 */

#include "tests/fakecuda/fake.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* A sleep overshoots by about so much; the rest of a wait is spun. */
#define CALL_SLEEP_SLACK_NS 80000ull

struct fake fake;

static pthread_mutex_t call_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t call_changed = PTHREAD_COND_INITIALIZER;
static enum { CALL_UNREAD, CALL_READ, CALL_UNREADABLE } call_settings;
static enum cu_result call_sick;

uint64_t fake_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void call_wait(uint64_t ns)
{
	uint64_t until = fake_now_ns() + ns;

	if (ns > CALL_SLEEP_SLACK_NS) {
		ns -= CALL_SLEEP_SLACK_NS;
		nanosleep(&(struct timespec){ .tv_sec = (time_t)(ns / 1000000000ull),
					      .tv_nsec = (long)(ns % 1000000000ull) },
			  NULL);
	}
	while (fake_now_ns() < until)
		continue;
}

static bool call_sickens(enum cu_result result)
{
	switch (result) {
	case CU_ERROR_ECC_UNCORRECTABLE:
	case CU_ERROR_NVLINK_UNCORRECTABLE:
	case CU_ERROR_CONTAINED:
	case CU_ERROR_ILLEGAL_ADDRESS:
	case CU_ERROR_LAUNCH_TIMEOUT:
	case CU_ERROR_ASSERT:
	case CU_ERROR_HARDWARE_STACK_ERROR:
	case CU_ERROR_ILLEGAL_INSTRUCTION:
	case CU_ERROR_MISALIGNED_ADDRESS:
	case CU_ERROR_INVALID_ADDRESS_SPACE:
	case CU_ERROR_INVALID_PC:
	case CU_ERROR_LAUNCH_FAILED:
	case CU_ERROR_MPS_CLIENT_TERMINATED:
		return true;
	default:
		return false;
	}
}

static enum cu_result call_lose(int ordinal)
{
	if (fake.pid)
		store_lose(fake.devices[ordinal < 0 ? 0 : ordinal].store);
	return CU_ERROR_UNKNOWN;
}

/* Every rule that matches counts the call; the first that is due decides. */
static enum cu_result call_injected(enum fake_call call, int ordinal)
{
	enum cu_result result = CU_OK;

	for (uint32_t i = 0; i < fake.settings.rules_count; i++) {
		struct fake_rule *rule = &fake.settings.rules[i];

		if ((rule->call != FAKE_CALL_ANY && rule->call != call) ||
		    (rule->ordinal != FAKE_DEVICE_ANY && rule->ordinal != ordinal))
			continue;
		rule->seen++;
		if (result != CU_OK ||
		    (rule->onwards ? rule->seen < rule->count : rule->seen != rule->count))
			continue;
		result = rule->result == FAKE_DEVICE_LOST ? call_lose(ordinal)
							  : (enum cu_result)rule->result;
	}
	if (call_sickens(result))
		call_sick = result;
	return result;
}

static bool call_needs_init(enum fake_call call)
{
	return call != FAKE_CALL_init && call != FAKE_CALL_driver_get_version &&
	       call != FAKE_CALL_get_proc_address;
}

enum cu_result fake_health(uint32_t ordinal)
{
	if (fake.finished)
		return CU_ERROR_DEINITIALIZED;
	if (call_sick == CU_OK && store_is_lost(fake.devices[ordinal].store))
		return CU_ERROR_UNKNOWN;
	return call_sick;
}

void fake_sicken(enum cu_result result)
{
	call_sick = result;
}

/* ---- the mutex ----------------------------------------------------------------------------- */

void fake_unlock(void)
{
	pthread_mutex_unlock(&call_mutex);
}

void fake_relock(void)
{
	pthread_mutex_lock(&call_mutex);
}

void fake_wait(void)
{
	pthread_cond_wait(&call_changed, &call_mutex);
}

void fake_wake(void)
{
	pthread_cond_broadcast(&call_changed);
}

void fake_sleep_until(uint64_t ns)
{
	struct timespec until = { .tv_sec = (time_t)(ns / 1000000000ull),
				  .tv_nsec = (long)(ns % 1000000000ull) };

	fake_unlock();
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		continue;
	fake_relock();
}

/* A child whose parent had a stream must not find the mutex in a hand that it does not have. */
static void __attribute__((constructor)) call_survive_fork(void)
{
	pthread_atfork(fake_relock, fake_unlock, fake_unlock);
}

void fake_lock(void)
{
	fake_relock();
	if (call_settings == CALL_UNREAD)
		call_settings = settings_read(&fake.settings) ? CALL_READ : CALL_UNREADABLE;
}

enum cu_result fake_begin(enum fake_call call, int ordinal, uint64_t pieces)
{
	enum cu_result result;

	if (call_settings != CALL_READ)
		return CU_ERROR_SYSTEM_NOT_READY;
	if (fake.finished)
		return CU_ERROR_DEINITIALIZED;
	if (call_needs_init(call) ? fake.pid != getpid() : fake.pid && fake.pid != getpid())
		return CU_ERROR_NOT_INITIALIZED;
	if (call_sick != CU_OK)
		return call_sick;
	if (device_exists(ordinal) && fake.pid && store_is_lost(fake.devices[ordinal].store))
		return CU_ERROR_UNKNOWN;
	result = call_injected(call, device_exists(ordinal) ? ordinal : FAKE_DEVICE_ANY);
	if (result == CU_OK && fake.settings.latency_ns[call])
		call_wait(fake.settings.latency_ns[call] * pieces);
	return result;
}

enum cu_result fake_enter(enum fake_call call, int ordinal, uint64_t pieces)
{
	fake_lock();
	return fake_begin(call, ordinal, pieces);
}

enum cu_result fake_leave(enum cu_result result)
{
	fake_unlock();
	return result;
}
