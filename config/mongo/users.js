// Users of the pipeline's database, one for each service that uses it. The mongo image runs this once,
// for an empty volume. To set passwords and roles again, run it again (docs/operations.md).
const income = db.getSiblingDB("income");
const users = {
  income: { role: "readWrite", secret: "mongo_password" }, // the relay
  worker: { role: "read", secret: "mongo_worker_password" },
  jupyter: { role: "read", secret: "mongo_jupyter_password" },
};
for (const [user, { role, secret }] of Object.entries(users)) {
  const pwd = require("fs").readFileSync(`/run/secrets/${secret}`, "utf8").trim();
  const fields = { pwd, roles: [{ role, db: "income" }] };
  if (income.getUser(user)) income.updateUser(user, fields);
  else income.createUser({ user, ...fields });
}
