/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A configuration file, read with libConfuse.
 *
 * The library has one lexer a process and no way to hand a value to whoever parses, so what is
 * being read is static here; one thread reads configurations. It also ends the process when a file
 * cannot be read, keeps what a string that does not end has done to its lexer, puts the environment
 * into strings, passes over bytes it does not know and counts a comment as several lines. So a file
 * is read whole before, bounded and without waiting, and text_check() lets through plain text only:
 * strings that end in their line, and no comments, which are # to the end of a line. Whatever
 * passes leaves the lexer as it found it.
 *
 * All values are strings to the library. They are made something of as they come, when the line
 * is known.
 */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <confuse.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/config/internal.h"
#include "broker/config/nearest.h"

#define HINT "see broker.conf(5)"

static struct {
	struct config_builder *builder;
	bool said;      /* why it fails */
	unsigned pairs; /* of the section that is open */
	struct config_pair pair[SETTING_KEYS_MAX];
	unsigned line[CONFIG_SETTINGS_MAX]; /* where each was given; 0: not yet */
} reading;

static struct config_origin at_line(unsigned line)
{
	return (struct config_origin){ .kind = CONFIG_BY_FILE, .line = line };
}

/* ---- the bytes ----------------------------------------------------------------------------- */

/* All of it, ended by a newline and a zero; the caller's. NULL: said. */
static char *read_text(struct config *c, size_t *ret_bytes)
{
	int fd = open(c->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	const char *why = NULL;
	char *text = NULL;
	struct stat st;
	ssize_t n = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		why = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		why = "it is not a file";
	else if (!(text = malloc(CONFIG_FILE_BYTES_MAX + 2)))
		why = strerror(ENOMEM);
	*ret_bytes = 0;
	while (!why && *ret_bytes <= CONFIG_FILE_BYTES_MAX &&
	       (n = read(fd, text + *ret_bytes, CONFIG_FILE_BYTES_MAX + 1 - *ret_bytes)) != 0) {
		if (n > 0)
			*ret_bytes += (size_t)n;
		else if (errno != EINTR)
			why = strerror(errno);
	}
	if (!why && *ret_bytes > CONFIG_FILE_BYTES_MAX)
		why = "it is larger than 1M";
	if (fd >= 0)
		(void)close(fd);
	if (why) {
		free(text);
		(void)config_refuse(c, (struct config_origin){ 0 }, "cannot be read", "%s", why);
		return NULL;
	}
	if (!*ret_bytes || text[*ret_bytes - 1] != '\n')
		text[(*ret_bytes)++] = '\n';
	text[*ret_bytes] = '\0';
	return text;
}

/* What is wrong with the character that `quote` has opened ('#' a comment, 0 nothing); NULL:
 * nothing.
 */
static const char *wrong_at(const char *text, char quote)
{
	if (*text == 127 || ((unsigned char)*text < ' ' && (!*text || !strchr("\t\r\n", *text))))
		return "it is not text";
	if (quote == '#')
		return NULL;
	if (quote && *text == '\n')
		return "a string ends in its line";
	if (*text == '$' && text[1] == '{')
		return "there are no variables";
	if (quote && *text == '\\' && text[1] != '\\' && text[1] != quote)
		return "it stands before something else than itself or a quote";
	if (!quote && (strchr("*\\|()", *text) || (*text == '/' && text[1] == '/')))
		return "it stands outside of quotes (comments begin with #)";
	return NULL;
}

static int refuse_character(struct config *c, unsigned line, unsigned char character,
			    const char *why)
{
	char shown[8];

	(void)snprintf(shown, sizeof(shown), isgraph(character) ? "'%c'" : "0x%02x", character);
	return config_refuse(c, at_line(line), shown, "%s", why);
}

/* Comments become spaces. */
static int text_check(struct config *c, char *text, size_t bytes)
{
	unsigned line = 1, opened = 0;
	char quote = 0;

	for (size_t i = 0; i < bytes; i++) {
		const char *why = wrong_at(text + i, quote);

		if (why)
			return refuse_character(c, line, (unsigned char)text[i], why);
		if (text[i] == '\n') {
			quote = 0;
			line++;
		} else if (quote && quote != '#' && text[i] == '\\') {
			i++;
		} else if (!quote && strchr("#\"'", text[i])) {
			quote = text[i];
		} else if (quote != '#' && text[i] == quote) {
			quote = 0;
		} else if (!quote && text[i] == '{' && !opened) {
			opened = line;
		} else if (!quote && text[i] == '}') {
			opened = 0;
		}
		if (quote == '#')
			text[i] = ' ';
	}
	return opened ? refuse_character(c, opened, '{', "nothing closes it") : 0;
}

/* ---- what the library finds ---------------------------------------------------------------- */

static int refuse(unsigned line, const char *what, const char *why)
{
	(void)config_refuse(reading.builder->config, at_line(line), what, "%s", why);
	reading.said = true;
	return -1;
}

static int refuse_again(unsigned line, const char *what, unsigned first)
{
	char why[64];

	(void)snprintf(why, sizeof(why), "given twice, first in line %u", first);
	return refuse(line, what, why);
}

static const char *kept_value(cfg_opt_t *opt)
{
	const char *text = cfg_opt_getnstr(opt, 0);
	const char *kept = text ? config_keep(reading.builder->config, text, strlen(text)) : NULL;

	reading.said |= !kept;
	return kept;
}

/* A setting has its value. */
static int setting_found(cfg_t *cfg, cfg_opt_t *opt)
{
	unsigned line = (unsigned)cfg->line, setting = (unsigned)setting_find(opt->name);
	const char *text = kept_value(opt);

	if (!text)
		return -1;
	if (reading.line[setting])
		return refuse_again(line, opt->name, reading.line[setting]);
	reading.line[setting] = line;
	if (config_take(reading.builder->config, setting, at_line(line), text) == 0)
		return 0;
	reading.said = true;
	return -1;
}

/* A key of the section that is open has its value. */
static int key_found(cfg_t *cfg, cfg_opt_t *opt)
{
	unsigned line = (unsigned)cfg->line;
	const char *key, *text;

	for (unsigned i = 0; i < reading.pairs; i++) {
		if (strcmp(reading.pair[i].key, opt->name) == 0)
			return refuse_again(line, opt->name, reading.pair[i].line);
	}
	if (!cfg->title || reading.pairs == SETTING_KEYS_MAX)
		return refuse(line, opt->name, "it stands in no section (" HINT ")");
	/* The name is the library's, and goes with it. */
	key = config_keep(reading.builder->config, opt->name, strlen(opt->name));
	text = kept_value(opt);
	reading.said |= !key;
	if (!key || !text)
		return -1;
	reading.pair[reading.pairs++] = (struct config_pair){
		.key = key,
		.text = text,
		.line = line,
	};
	return 0;
}

/* A section has ended: it is the one that has not been taken yet. */
static int section_found(cfg_t *cfg, cfg_opt_t *opt)
{
	struct config_item *item;
	cfg_t *section = NULL;

	for (unsigned i = 0; i < cfg_opt_size(opt); i++) {
		section = cfg_opt_getnsec(opt, i);
		if (!(section->flags & CFGF_MODIFIED))
			break;
	}
	section->flags |= CFGF_MODIFIED;
	item = config_add_item(reading.builder, (enum setting_section)setting_find(opt->name));
	reading.said |= !item;
	if (!item)
		return -1;
	item->at = at_line(reading.pairs ? reading.pair[0].line : (unsigned)cfg->line);
	item->title = config_keep(reading.builder->config, section->title, strlen(section->title));
	memcpy(item->pair, reading.pair, sizeof(item->pair));
	item->pairs = reading.pairs;
	reading.pairs = 0;
	reading.said |= !item->title;
	return item->title ? 0 : -1;
}

/* The name that a message of the library quotes, if what it says is that there is none of it. */
static bool is_unknown(const char *message, char *ret, size_t bytes)
{
	static const char before[] = "no such option '";
	size_t n;

	if (strncmp(message, before, sizeof(before) - 1) != 0)
		return false;
	message += sizeof(before) - 1;
	n = strlen(message);
	(void)snprintf(ret, bytes, "%.*s", (int)(n ? n - 1 : 0), message);
	return true;
}

static void library_says(cfg_t *cfg, const char *fmt, va_list args)
	__attribute__((format(printf, 2, 0)));

static void library_says(cfg_t *cfg, const char *fmt, va_list args)
{
	char message[256], name[128], why[sizeof(message) + sizeof(HINT) + 8];
	const char *near = NULL;
	unsigned least = NEAREST_MAX + 1;

	if (reading.said)
		return;
	(void)vsnprintf(message, sizeof(message), fmt, args);
	if (!is_unknown(message, name, sizeof(name))) {
		(void)snprintf(why, sizeof(why), "%s (" HINT ")", message);
		(void)refuse((unsigned)cfg->line, "syntax", why);
		return;
	}
	for (cfg_opt_t *opt = cfg->opts; opt->name; opt++) {
		if (nearest_take(name, opt->name, &least))
			near = opt->name;
	}
	if (near)
		(void)snprintf(why, sizeof(why), "no such option; did you mean '%s'?", near);
	else
		(void)snprintf(why, sizeof(why), "no such option (" HINT ")");
	(void)refuse((unsigned)cfg->line, name, why);
}

/* ---- the whole ----------------------------------------------------------------------------- */

static cfg_opt_t string_option(const char *name, cfg_validate_callback_t found)
{
	cfg_opt_t opt = CFG_STR(name, NULL, CFGF_NONE);

	opt.validcb = found;
	return opt;
}

/* The table of settings as the library wants it. */
static cfg_t *make_parser(void)
{
	static const cfg_opt_t end = CFG_END();
	cfg_opt_t keys[SETTING_SECTIONS_N][SETTING_KEYS_MAX + 1], opts[CONFIG_SETTINGS_MAX + 1];

	for (unsigned i = 0; i < settings_n; i++) {
		const struct setting *s = &settings[i];

		if (!setting_is_section(i)) {
			opts[i] = string_option(s->name, setting_found);
			continue;
		}
		for (unsigned k = 0; k < s->keys_n; k++)
			keys[i][k] = string_option(s->keys[k].name, key_found);
		keys[i][s->keys_n] = end;
		opts[i] = (cfg_opt_t)CFG_SEC(s->name, keys[i], CFGF_MULTI | CFGF_TITLE);
		opts[i].validcb = section_found;
	}
	opts[settings_n] = end;
	return cfg_init(opts, CFGF_NONE); /* copies them */
}

static int parse(struct config_builder *b, char *text, size_t bytes)
{
	cfg_t *cfg = make_parser();
	FILE *file = fmemopen(text, bytes, "r");
	int result = CFG_PARSE_ERROR;

	memset(&reading, 0, sizeof(reading));
	reading.builder = b;
	if (cfg && file) {
		(void)cfg_set_error_function(cfg, library_says);
		result = cfg_parse_fp(cfg, file);
	}
	if (result != CFG_SUCCESS && !reading.said)
		(void)refuse(cfg ? (unsigned)cfg->line : 0, "syntax",
			     "it cannot be read (" HINT ")");
	if (file)
		(void)fclose(file);
	if (cfg)
		(void)cfg_free(cfg);
	return result == CFG_SUCCESS ? 0 : -EINVAL;
}

int config_read_file(struct config_builder *b)
{
	size_t bytes;
	char *text = read_text(b->config, &bytes);
	int error = text ? text_check(b->config, text, bytes) : -EINVAL;

	if (!error)
		error = parse(b, text, bytes);
	free(text);
	return error;
}
