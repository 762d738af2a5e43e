/* SPDX-License-Identifier: Apache-2.0 */

/*
 * cuGetProcAddress: a call by its bare name and the version of the driver that declared it so.
 *
 * The setting `version` decides which there are, as with a real driver: one older than 12.8 has no
 * batch copy, one older than 13.0 no second form of it. Of the rest every version has the form that
 * cuda_abi.h declares.
 */

#include "tests/fakecuda/fake.h"

#include <string.h>

#define SYMBOL_FLAGS_MAX 1u /* streams as ever; the driver also has NULL streams by thread */
#define SYMBOL_FORM "_v2"

enum symbol_status { SYMBOL_FOUND = CU_PROC_FOUND, SYMBOL_NOT_FOUND = 1, SYMBOL_TOO_NEW = 2 };

struct symbol {
	const char *name; /* with its form */
	void *call;
	int version; /* that it came with */
};

/* Later forms of a call stand after earlier ones. */
static const struct symbol symbols[] = {
#define SYMBOL(field, symbol, args) { #symbol, (void *)symbol, 0 },
	CU_CALLS(SYMBOL) CU_STREAM_CALLS(SYMBOL)
#undef SYMBOL
		{ "cuMemcpyBatchAsync", (void *)cuMemcpyBatchAsync, CU_BATCH_VERSION_12 },
	{ "cuMemcpyBatchAsync_v2", (void *)cuMemcpyBatchAsync_v2, CU_BATCH_VERSION_13 },
};

static bool symbol_is_named(const struct symbol *symbol, const char *name)
{
	size_t length = strlen(name);

	return strncmp(symbol->name, name, length) == 0 &&
	       (!symbol->name[length] || strcmp(symbol->name + length, SYMBOL_FORM) == 0);
}

static enum symbol_status symbol_find(const char *name, int version, void **ret)
{
	enum symbol_status status = SYMBOL_NOT_FOUND;

	*ret = NULL;
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		if (!symbol_is_named(&symbols[i], name))
			continue;
		if (symbols[i].version <= version) {
			*ret = symbols[i].call;
			status = SYMBOL_FOUND;
		} else if (status == SYMBOL_NOT_FOUND) {
			status = SYMBOL_TOO_NEW;
		}
	}
	return status;
}

/* That a call is not there is told by *ret_status, and is no error. */
enum cu_result cuGetProcAddress_v2(const char *symbol, void **ret_call, int version, uint64_t flags,
				   int *ret_status)
{
	enum cu_result result = fake_enter(FAKE_CALL_get_proc_address, FAKE_DEVICE_ANY, 1);
	enum symbol_status status;

	if (result == CU_OK &&
	    (!symbol || !ret_call || flags > SYMBOL_FLAGS_MAX || version > fake.settings.version))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK) {
		status = symbol_find(symbol, version, ret_call);
		if (ret_status)
			*ret_status = (int)status;
	}
	return fake_leave(result);
}
