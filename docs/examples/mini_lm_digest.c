/* SPDX-License-Identifier: Apache-2.0 */

/* See mini_lm_digest.h. */

#include <openssl/evp.h>
#include <string.h>

#include "mini_lm_digest.h"

bool digest_make(const struct digest_part *parts, uint32_t n, uint8_t ret[DIGEST_BYTES])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool made = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);

	for (uint32_t i = 0; i < n; i++)
		made = made && EVP_DigestUpdate(ctx, &parts[i].n, sizeof(parts[i].n)) &&
		       EVP_DigestUpdate(ctx, parts[i].bytes, parts[i].n);
	made = made && EVP_DigestFinal_ex(ctx, ret, NULL);
	EVP_MD_CTX_free(ctx);
	return made;
}

bool digest_chain(const struct kvb_hash *before, const uint8_t *tokens, uint32_t n,
		  struct kvb_hash *ret)
{
	const struct digest_part parts[] = { { before, sizeof(*before) }, { tokens, n } };
	uint8_t digest[DIGEST_BYTES];

	if (!digest_make(parts, 2, digest))
		return false;
	memcpy(ret, digest, sizeof(*ret));
	return true;
}
