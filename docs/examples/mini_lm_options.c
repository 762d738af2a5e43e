/* SPDX-License-Identifier: Apache-2.0 */

/* See mini_lm_options.h. */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvbroker.h"
#include "mini_lm_model.h"
#include "mini_lm_options.h"

static const char usage[] =
	"usage: mini-lm [OPTION]... [PROMPT]...\n"
	"\n"
	"A small transformer with seeded weights whose KV cache lies in pages of kvbroker. Each "
	"PROMPT,\n"
	"or each line of standard input, is answered with a line. The broker is found by\n"
	"$KVBROKER_SOCKET; without one, or when it dies, answers are the same and take longer.\n"
	"\n"
	"  --seed N            the weights (default 1)\n"
	"  --device host:N     where KV lies (default host:0), or cuda:N: computed here, kept "
	"there\n"
	"  --ranks 1|2         split heads over so many spaces: a group (on GPUs N and N + 1)\n"
	"  --packed            all layers of a block in one piece; else a region a layer\n"
	"  --blocks N          have room for so many blocks of 16 tokens (default 512)\n"
	"  --tokens N          of each answer (default 8)\n"
	"  --run NAME          weights are updated in place, together with all engines of this "
	"run;\n"
	"                      lines of input then may be commands\n"
	"                        :update  new weights; tells the broker that the old ones are "
	"gone\n"
	"                        :follow  new weights, after another engine of the run has told "
	"it\n"
	"                        :forget  new weights, and tells nobody: a mistake, for tests\n"
	"  --check             also print the digest of all logits\n"
	"  --no-broker         compute everything: what answers have to be like\n"
	"  --wrong-pages        a mistake, for tests: read the first reused block in place of all\n"
	"  --half              a mistake, for tests: rank 1 publishes nothing\n"
	"  --help\n"
	"\n"
	"Output: prompt NUMBER tokens N reused N below N sealed N again N answer TOKEN,... [logits "
	"SHA256]\n"
	"  in blocks: reused ones were found, below of them under the device, sealed ones "
	"published;\n"
	"  again 1: the broker was lost on the way and all was computed anew.\n"
	"\n"
	"Exit status: 0 every prompt was answered; 1 out of memory, or output failed; 2 wrong "
	"command\n"
	"line or input.\n";

static int wrong(const char *what, const char *value)
{
	fprintf(stderr, "mini-lm: %s '%s'; see --help\n", what, value);
	return 2;
}

static bool parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return text[0] >= '0' && text[0] <= '9' && !*end && !errno && *ret >= least && *ret <= most;
}

static bool parse_device(const char *text, struct options *ret)
{
	uint64_t ordinal;

	if (strlen(text) < 6 || !parse_number(text + 5, 0, UINT32_MAX - MODEL_RANKS, &ordinal))
		return false;
	ret->device_ordinal = (uint32_t)ordinal;
	if (strncmp(text, "host:", 5) == 0)
		ret->device_kind = KVB_DEVICE_HOST;
	else if (strncmp(text, "cuda:", 5) == 0)
		ret->device_kind = KVB_DEVICE_CUDA;
	else
		return false;
	return true;
}

int options_parse(int argc, char **argv, struct options *ret)
{
	static const struct option known[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "device", required_argument, NULL, 'd' },
		{ "ranks", required_argument, NULL, 'r' },
		{ "packed", no_argument, NULL, 'p' },
		{ "blocks", required_argument, NULL, 'b' },
		{ "tokens", required_argument, NULL, 't' },
		{ "run", required_argument, NULL, 'R' },
		{ "check", no_argument, NULL, 'c' },
		{ "no-broker", no_argument, NULL, 'n' },
		{ "wrong-pages", no_argument, NULL, 'S' },
		{ "half", no_argument, NULL, 'H' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	uint64_t n;
	int c;

	*ret = (struct options){ .seed = 1,
				 .device_kind = KVB_DEVICE_HOST,
				 .ranks = 1,
				 .blocks = 512,
				 .answer_tokens = 8 };
	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (c) {
		case 's':
			if (!parse_number(optarg, 0, UINT32_MAX, &ret->seed))
				return wrong("no seed", optarg);
			break;
		case 'd':
			if (!parse_device(optarg, ret))
				return wrong("no device", optarg);
			break;
		case 'r':
			if (!parse_number(optarg, 1, MODEL_RANKS, &n))
				return wrong("ranks are 1 or 2, not", optarg);
			ret->ranks = (uint32_t)n;
			break;
		case 'b':
			if (!parse_number(optarg, 1, 1u << 20, &n))
				return wrong("blocks are 1 to 1048576, not", optarg);
			ret->blocks = (uint32_t)n;
			break;
		case 't':
			if (!parse_number(optarg, 1, MODEL_POSITIONS / 2, &n))
				return wrong("tokens are 1 to 2048, not", optarg);
			ret->answer_tokens = (uint32_t)n;
			break;
		case 'R':
			ret->run = optarg;
			break;
		case 'p':
			ret->packed = true;
			break;
		case 'c':
			ret->check = true;
			break;
		case 'n':
			ret->no_broker = true;
			break;
		case 'S':
			ret->wrong_pages = true;
			break;
		case 'H':
			ret->half = true;
			break;
		case 'h':
			return fputs(usage, stdout) < 0;
		default:
			return 2;
		}
	}
	ret->prompts = argv + optind;
	return -1;
}
