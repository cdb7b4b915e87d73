from layermask.studies.audit.study import Audit as Audit
from layermask.studies.audit.study import audit as audit
from layermask.studies.audit.verdict import Verdict as Verdict
from layermask.studies.audit.verdict import recommend as recommend
