#pragma once
#include "exp2.hpp"
#include <cmath>
namespace tw { inline vf log2(vf x){ float a[W]; store(a,x); for(float&y:a) y=std::log2(y); return load(a);} inline vf tanh(vf x){ float a[W]; store(a,x); for(float&y:a) y=std::tanh(y); return load(a);} }
