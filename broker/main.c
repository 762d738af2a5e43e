/* SPDX-License-Identifier: Apache-2.0 */

/*
 * kvbrokerd: options, start, the wheel, stop. The same binary, started by itself with --owner, is
 * the process that keeps the memory of one GPU, and with --mover the one that copies between a
 * device and host memory; see broker/owner/owner.h and broker/mover/mover.h.
 *
 * Exit status: 0 stopped as asked, 1 could not start or broke, 2 a command line or file that
 * makes no sense.
 */

#include <stdlib.h>

#include "broker/io/options.h"
#include "broker/mover/mover.h"
#include "broker/owner/owner.h"

/* Large, and one a process: not on the stack. */
static struct config config;
static struct server server;

/*
 * What the driver is to open. A UUID is the driver's to resolve: it alone knows the parts of a GPU
 * (MIG), of which a process sees no more than one. So the process is let see that device only.
 */
static uint32_t driver_ordinal(const struct server_device_config *device)
{
	if (!device->uuid[0])
		return device->ordinal;
	setenv("CUDA_VISIBLE_DEVICES", device->uuid, 1);
	return 0;
}

int main(int argc, char **argv)
{
	struct server_device_config device;
	int error;

	switch (options_parse(argc, argv, &config, &device)) {
	case OPTIONS_EXIT:
		return 0;
	case OPTIONS_WRONG:
		return 2;
	case OPTIONS_OWNER:
		log_init(config.cfg.log_level);
		return owner_main(device.ordinal, driver_ordinal(&device));
	case OPTIONS_MOVER:
		log_init(config.cfg.log_level);
		return mover_main(device.kind, device.ordinal, driver_ordinal(&device));
	case OPTIONS_RUN:
		break;
	}
	log_init(config.cfg.log_level);
	if (server_start(&server, &config.cfg))
		return 1;
	server.config = &config;
	error = server_run(&server);
	server_finish(&server);
	return error ? 1 : 0;
}
