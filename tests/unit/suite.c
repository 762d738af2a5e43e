/* SPDX-License-Identifier: Apache-2.0 */

/*
 * suite_run(): see suite.h. A timeout belongs to a Check test case, so that every function gets a
 * test case of its own, named after the suite.
 */

#include "tests/unit/suite.h"

#include <stdlib.h>

int suite_run(const char *name, const struct suite_case *cases)
{
	Suite *suite = suite_create(name);

	for (const struct suite_case *c = cases; c->test; c++) {
		TCase *tcase = tcase_create(name);
		if (c->timeout_s > 0)
			tcase_set_timeout(tcase, c->timeout_s);
		tcase_add_loop_test(tcase, *c->test, 0, c->loops > 0 ? c->loops : 1);
		suite_add_tcase(suite, tcase);
	}
	SRunner *runner = srunner_create(suite);
	srunner_set_tap(runner, "-");
	srunner_run_all(runner, CK_SILENT);
	srunner_free(runner);
	return EXIT_SUCCESS;
}
