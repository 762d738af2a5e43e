/* SPDX-License-Identifier: Apache-2.0 */

/* Flushes and checks that operators wait for; see store_jobs.h. */

#include "broker/io/store_jobs.h"

#include <errno.h>

static void begin_flush(struct store_jobs *j, struct store *store)
{
	j->flush.begun++;
	store_flush(store, NULL);
}

uint64_t store_jobs_flush(struct store_jobs *j, struct store *store)
{
	j->flush.asked = j->flush.begun + 1;
	if (j->flush.begun == j->flush.ended)
		begin_flush(j, store);
	return j->flush.asked;
}

uint64_t store_jobs_check(struct store_jobs *j, struct store *store)
{
	if (store_scrub(store, NULL) == 0)
		j->check.begun++;
	return j->check.begun;
}

int store_job_state(const struct store_job *job, uint64_t number)
{
	if (job->ended < number)
		return 0;
	return job->failed >= number ? -EIO : 1;
}

static void job_done(struct store_job *job, int status)
{
	job->ended++;
	if (status)
		job->failed = job->ended;
}

void store_jobs_done(struct store_jobs *j, struct store *store, const struct store_done *done)
{
	struct store_stats st;

	if (done->kind == STORE_DONE_SCRUB) {
		store_stats(store, &st);
		j->checked = st.check;
		job_done(&j->check, done->status);
		return;
	}
	job_done(&j->flush, done->status);
	if (j->flush.asked > j->flush.begun)
		begin_flush(j, store);
}
