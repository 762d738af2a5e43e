/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The policies there are, by name.
 */

#include <stddef.h>
#include <string.h>

#include "broker/policy/policy.h"

static const struct policy_ops *const policies[] = {
	&policy_lru,
};

const struct policy_ops *policy_at(unsigned i)
{
	return i < sizeof(policies) / sizeof(policies[0]) ? policies[i] : NULL;
}

const struct policy_ops *policy_find(const char *name)
{
	for (unsigned i = 0; policy_at(i); i++) {
		if (!strcmp(policy_at(i)->name, name))
			return policy_at(i);
	}
	return NULL;
}
