/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Copies between host and device memory, and fills. They are done by the calling thread before the
 * call returns, for the device of its current context, and refuse what that device may not touch --
 * with INVALID_VALUE, before a byte is moved, as the driver does: it knows its maps.
 */

#include "tests/fakecuda/fake.h"

#include <string.h>

/* Begins a copy: who does it, and may it? */
static enum cu_result copy_enter(enum fake_call call, cu_address address, size_t bytes,
				 enum cu_access access)
{
	enum cu_result result = fake_enter(call, context_ordinal(), 1);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK && !space_allows(address, bytes, ordinal, access))
		result = CU_ERROR_INVALID_VALUE;
	return result;
}

enum cu_result cuMemcpyHtoD_v2(cu_address to, const void *from, size_t bytes)
{
	enum cu_result result = copy_enter(FAKE_CALL_memcpy_htod, to, bytes, CU_ACCESS_READ_WRITE);

	if (result == CU_OK && bytes > 0)
		memcpy((void *)(uintptr_t)to, from, bytes);
	return fake_leave(result);
}

enum cu_result cuMemcpyDtoH_v2(void *to, cu_address from, size_t bytes)
{
	enum cu_result result = copy_enter(FAKE_CALL_memcpy_dtoh, from, bytes, CU_ACCESS_READ);

	if (result == CU_OK && bytes > 0)
		memcpy(to, (const void *)(uintptr_t)from, bytes);
	return fake_leave(result);
}

enum cu_result cuMemsetD8_v2(cu_address to, unsigned char value, size_t bytes)
{
	enum cu_result result = copy_enter(FAKE_CALL_memset_d8, to, bytes, CU_ACCESS_READ_WRITE);

	if (result == CU_OK && bytes > 0)
		memset((void *)(uintptr_t)to, value, bytes);
	return fake_leave(result);
}
