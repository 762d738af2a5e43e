/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Plays the files of a corpus through a fuzz target, without libFuzzer: what fuzzing once found
 * stays found, with any compiler. A target fails by aborting.
 */

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define INPUT_BYTES_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static int play_file(const char *folder, const char *name)
{
	uint8_t *data = malloc(INPUT_BYTES_MAX);
	char path[4096];
	size_t bytes;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "re");
	if (!file || !data) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	bytes = fread(data, 1, INPUT_BYTES_MAX, file);
	fclose(file);
	/* its own allocation of just this size, so that a sanitizer sees the end */
	data = realloc(data, bytes ? bytes : 1);
	if (!data)
		exit(EXIT_FAILURE);
	printf("%s\n", name);
	fflush(stdout);
	LLVMFuzzerTestOneInput(data, bytes);
	free(data);
	return 1;
}

int main(int argc, char **argv)
{
	int played = 0;
	DIR *folder;

	if (argc != 2) {
		fputs("usage: replay_NAME FOLDER\n", stderr);
		return 2;
	}
	folder = opendir(argv[1]);
	if (!folder) {
		perror(argv[1]);
		return EXIT_FAILURE;
	}
	for (struct dirent *entry; (entry = readdir(folder));) {
		if (entry->d_name[0] != '.')
			played += play_file(argv[1], entry->d_name);
	}
	closedir(folder);
	printf("%d inputs\n", played);
	return played ? EXIT_SUCCESS : EXIT_FAILURE;
}
