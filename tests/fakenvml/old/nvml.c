/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A management library of a driver from before memory was told by nvmlDeviceGetMemoryInfo_v2.
 */

int __attribute__((visibility("default"))) nvmlInit_v2(void);
int __attribute__((visibility("default"))) nvmlShutdown(void);
int __attribute__((visibility("default"))) nvmlDeviceGetHandleByUUID(const char *uuid, void **ret);

int nvmlInit_v2(void)
{
	return 0;
}

int nvmlShutdown(void)
{
	return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret)
{
	return 0;
}
